//! The file of users: a line for each, as `ACL LIST` has it; empty lines and comments beside them.
//!
//! Invariants:
//! - A file is read whole or not at all: one wrong line refuses it, by its number.
//! - A crash while it is written leaves the old file or the new one.

use super::user::{self, User};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Longest file that is read.
const LEN_MAX: u64 = 64 << 20;

/// Reads the users of a file.
pub(super) fn read(path: &Path) -> Result<Vec<User>, String> {
    let text = fs::metadata(path)
        .and_then(|found| match found.len() {
            0..=LEN_MAX => fs::read(path),
            _ => Err(io::Error::other("longer than 64 MiB")),
        })
        .map_err(|error| format!("{}: {error}", path.display()))?;
    let mut users: Vec<User> = Vec::new();
    let mut problems = Vec::new();
    for (at, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let read = line
            .strip_prefix(b"user ")
            .ok_or_else(|| "a line begins with `user`".to_owned())
            .and_then(user::parse)
            .and_then(|user| match users.iter().any(|known| known.name == user.name) {
                true => Err(format!("user '{}' is there twice", user.name.escape_ascii())),
                false => Ok(user),
            });
        match read {
            Ok(user) => users.push(user),
            Err(why) => problems.push(format!("{}:{}: {why}", path.display(), at + 1)),
        }
    }
    if problems.is_empty() { Ok(users) } else { Err(problems.join("; ")) }
}

/// Writes the users to a file that nobody else reads.
pub(super) fn write<'u>(path: &Path, users: impl Iterator<Item = &'u User>) -> io::Result<()> {
    let mut text = Vec::new();
    for user in users {
        text.extend(user.line());
        text.push(b'\n');
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    let draft = Path::new(&draft);
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft).and_then(|mut file| {
            file.write_all(&text)?;
            if let Ok(found) = fs::metadata(path) {
                file.set_permissions(found.permissions())?;
            }
            file.sync_all()?;
            fs::rename(draft, path)?;
            match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                Some(dir) => fs::File::open(dir)?.sync_all(),
                None => Ok(()),
            }
        });
    if written.is_err() {
        // Whatever went wrong is reported; the draft is of no use.
        let _ = fs::remove_file(draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_wrong_lines_are_named() {
        let dir = std::env::temp_dir().join(format!("mooncake-users-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let path = dir.join("users.acl");
        let lines = [
            "default on nopass ~* &* +@all",
            "bob on >pw ~a:* %R~b:* &news.* -@all +@read +get|x -mget (~c +set)",
            "eve off",
        ];
        let users: Vec<User> = lines.iter().map(|line| user::parse(line.as_bytes()).expect(line)).collect();
        write(&path, users.iter()).expect("the directory can be written");
        let text = fs::read_to_string(&path).expect("it is there");
        let read_back = read(&path);
        fs::write(&path, "# ours\n\nuser bob on\nuser bob off\nnobody\nuser x +nosuch >secret\n").expect("ours");
        let wrong = read(&path);
        fs::remove_dir_all(&dir).expect("the directory was ours");
        assert_eq!(read_back, Ok(users));
        assert!(
            !text.contains("pw") && text.starts_with("user default on nopass ~* &* +@all\nuser bob on #"),
            "{text}"
        );
        let wrong = wrong.expect_err("it is wrong");
        for part in [":4: user 'bob' is there twice", ":5: a line begins with `user`", ":6: '+nosuch': Unknown command"]
        {
            assert!(wrong.contains(part), "no {part:?} in {wrong}");
        }
        assert!(!wrong.contains("secret"), "{wrong}");
    }
}
