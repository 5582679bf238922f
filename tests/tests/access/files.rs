//! Where users stand: the configuration, a file of their own, and what a running server writes back.

use super::say;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use tempfile::TempDir;
use tests::server::{Mark, binary};
use tests::{Server, Wire};

fn dir() -> Arc<TempDir> {
    Arc::new(TempDir::with_prefix("mooncake-users-").expect("a directory for the test"))
}

fn start(dir: &Arc<TempDir>, args: &[&str]) -> Result<Server, String> {
    Server::try_start(Arc::clone(dir), args, Mark::Ready)
}

#[test]
fn users_of_the_configuration_are_there_and_changes_are_written_back() {
    let dir = dir();
    let path = dir.path().join("m.toml");
    let text = "# who may\nrequirepass = \"boss\" # the first\nuser = [\"bob on >pw ~a:* +@read\", \"eve off\"]\n# end\ntimeout = 0\n";
    fs::write(&path, text).expect("a file for the test");
    let config = path.to_str().expect("plain").to_owned();
    let server = start(&dir, &["--config", &config]).expect("it starts");
    let mut wire = Wire::connect(server.addr());
    assert_eq!(say(&mut wire, "AUTH bob pw"), "+OK");
    assert_eq!(say(&mut wire, "GET a:x"), "$-1");
    assert!(say(&mut wire, "SET a:x v").starts_with("-NOPERM"));
    assert_eq!(say(&mut wire, "AUTH boss"), "+OK");
    assert_eq!(say(&mut wire, "ACL SETUSER carl on nopass %R~c:* +get"), "+OK");
    assert_eq!(say(&mut wire, "ACL DELUSER eve"), ":1");
    let before = say(&mut wire, "ACL LIST");
    assert_eq!(say(&mut wire, "CONFIG REWRITE"), "+OK");
    drop(server);
    let written = fs::read_to_string(&path).expect("it is there");
    assert!(
        written.starts_with("# who may\nrequirepass = \"boss\" # the first\nuser = [\n    \"bob on #"),
        "{written}"
    );
    assert!(
        written.contains("\"carl on nopass %R~c:* resetchannels -@all +get\",\n]\n# end\ntimeout = 0\n"),
        "{written}"
    );
    assert!(!written.contains("eve") && !written.contains(">pw"), "{written}");
    let server = start(&dir, &["--config", &config]).expect("it starts again");
    let mut wire = Wire::connect(server.addr());
    assert_eq!(say(&mut wire, "AUTH boss"), "+OK");
    assert_eq!(say(&mut wire, "ACL LIST"), before);
    assert!(!server.log().contains("pw"), "{}", server.log());
}

#[test]
fn a_file_of_users_is_read_written_and_read_again() {
    let dir = dir();
    let path = dir.path().join("users.acl");
    fs::write(&path, "# ours\nuser bob on >pw ~a:* +@all\nuser default off\n").expect("a file for the test");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let file = path.to_str().expect("plain").to_owned();
    let server = start(&dir, &["--aclfile", &file]).expect("it starts");
    let mut bob = Wire::connect(server.addr());
    assert!(say(&mut bob, "GET a:x").starts_with("-NOAUTH"), "the default user is off");
    assert_eq!(say(&mut bob, "AUTH bob pw"), "+OK");
    assert_eq!(say(&mut bob, "ACL SETUSER eve on nopass +@read ~e:*"), "+OK");
    let mut eve = Wire::connect(server.addr());
    assert_eq!(say(&mut eve, "AUTH eve x"), "+OK");
    // What is wrong in a file changes nothing.
    assert_eq!(say(&mut bob, "ACL SAVE"), "+OK");
    let saved = fs::read_to_string(&path).expect("it is there");
    assert!(
        saved.contains("user eve on nopass ~e:* resetchannels -@all +@read\n") && !saved.contains(">pw"),
        "{saved}"
    );
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o640);
    fs::write(&path, format!("{saved}user x +nosuch\n")).expect("ours");
    let told = say(&mut bob, "ACL LOAD");
    assert!(told.starts_with("-ERR ") && told.contains("users.acl:4: '+nosuch': Unknown command"), "{told}");
    assert_eq!(say(&mut eve, "GET e:x"), "$-1");
    // Who is not in the file any more is gone; who is, has the rights that stand there.
    let without: String =
        saved.lines().filter(|line| !line.contains("eve")).map(|line| format!("{line} -get\n")).collect();
    fs::write(&path, without).expect("ours");
    assert_eq!(say(&mut bob, "ACL LOAD"), "+OK");
    assert!(say(&mut bob, "GET a:x").starts_with("-NOPERM"));
    assert_eq!(eve.rest(), b"");
    assert_eq!(say(&mut bob, "CONFIG GET aclfile"), format!("*2 $7 aclfile ${} {file}", file.len()));
}

#[test]
fn wrong_users_stop_the_start_and_say_where() {
    let dir = dir();
    let path = dir.path().join("users.acl");
    fs::write(&path, "user bob on\nuser bob off >s3cret\n").expect("a file for the test");
    let log = start(&dir, &["--aclfile", path.to_str().expect("plain")]).expect_err("it is there twice");
    assert!(log.contains("users.acl:2: user 'bob' is there twice") && !log.contains("s3cret"), "{log}");
    for (args, why) in [
        (&["--user", "bob +nosuch >s3cret"][..], "user = (hidden) is not allowed"),
        (&["--user", "bob on", "--aclfile", "/nonexistent"], "aclfile not with `user`"),
    ] {
        let told = std::process::Command::new(binary()).args(args).arg("--check").output().expect("it runs");
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(told.contains(why) && !told.contains("s3cret"), "{told}");
    }
    let args = ["--user", "bob on >s3cret", "--user", "eve on", "--check"];
    let told = std::process::Command::new(binary()).args(args).output().expect("it runs");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("user = \"********\"") && !told.contains("s3cret"), "{told}");
}

#[test]
fn a_password_of_the_settings_is_that_of_the_default_user() {
    let server = start(&dir(), &["--requirepass", "one"]).expect("it starts");
    let mut wire = Wire::connect(server.addr());
    assert!(say(&mut wire, "PING").starts_with("-NOAUTH"));
    assert_eq!(say(&mut wire, "AUTH one"), "+OK");
    assert_eq!(say(&mut wire, "CONFIG SET requirepass two"), "+OK");
    assert_eq!(say(&mut wire, "PING"), "+PONG", "who is in stays in");
    let mut other = Wire::connect(server.addr());
    assert!(say(&mut other, "AUTH one").starts_with("-WRONGPASS"));
    assert_eq!(say(&mut other, "AUTH default two"), "+OK");
    // Other settings leave what ACL SETUSER made of it.
    assert_eq!(say(&mut wire, "ACL SETUSER default >three"), "+OK");
    assert_eq!(say(&mut wire, "CONFIG SET timeout 100"), "+OK");
    assert_eq!(say(&mut other, "AUTH three"), "+OK");
    let info = say(&mut wire, "INFO stats");
    assert!(info.contains("acl_access_denied_auth:1 "), "{info}");
}
