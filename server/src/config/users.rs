//! Users in the configuration: their lines, as `ACL LIST` shows them, `user` left out.
//!
//! Invariants:
//! - Every line is a user that can be made, and no name is there twice.
//! - Passwords in clear are forgotten once they are read: lines have their hashes.

use super::value::{Form, Value};
use crate::acl::user::{self, User};

/// What a line begins with in `ACL LIST`.
const USER: &str = "user ";

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Default)]
pub struct UserLines(Vec<String>);

/// A line without its first word, if it has that.
fn rules(line: &str) -> &[u8] {
    line.strip_prefix(USER).unwrap_or(line).as_bytes()
}

impl UserLines {
    /// The users that the lines stand for.
    pub(crate) fn parsed(&self) -> Vec<User> {
        self.0.iter().map(|line| user::parse(rules(line)).expect("read before")).collect()
    }

    /// The lines of these users.
    pub(crate) fn of<'u>(users: impl Iterator<Item = &'u User>) -> Self {
        let line = |user: &User| {
            let line = String::from_utf8_lossy(&user.line()).into_owned();
            // One who is called `user` needs the word, which else is taken for it.
            line.strip_prefix(USER).filter(|rest| !rest.starts_with(USER)).map_or_else(|| line.clone(), str::to_owned)
        };
        Self(users.map(line).collect())
    }

    /// The lines themselves.
    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }
}

impl Value for UserLines {
    const KIND: &'static str = "USER";
    const ALLOWED: &'static str = "a name and rules as ACL SETUSER takes them, such as alice on >secret ~kv:* +@read";
    const FORM: Form = Form::Text;
    const SECRET: bool = true;
    const LIST: bool = true;
    const SEPARATOR: &'static str = "\n";

    fn parse(text: &str) -> Option<Self> {
        let mut users: Vec<User> = Vec::new();
        for line in text.split(Self::SEPARATOR).map(str::trim).filter(|line| !line.is_empty()) {
            let user = user::parse(rules(line)).ok()?;
            if users.iter().any(|known| known.name == user.name) {
                return None;
            }
            users.push(user);
        }
        Some(Self::of(users.iter()))
    }

    fn render(&self) -> String {
        self.0.join(Self::SEPARATOR)
    }

    fn written(&self) -> String {
        match self.0.len() {
            0 => String::new(),
            _ => "********".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_users_and_hold_no_password_in_clear() {
        let lines = UserLines::parse("alice on >secret ~a:* +@read\n user bob off nopass").expect("two users");
        assert_eq!(lines.parsed().len(), 2);
        assert!(!lines.render().contains("secret") && lines.render().starts_with("alice on #"), "{}", lines.render());
        assert_eq!(UserLines::parse(&lines.render()), Some(lines));
        assert_eq!(UserLines::parse(""), Some(UserLines::default()));
        let named = UserLines::parse("user user on nopass").expect("one who is called so");
        assert_eq!(&*named.parsed()[0].name, b"user");
        assert_eq!(UserLines::parse(&named.render()), Some(named));
        for wrong in ["alice on +nosuch", "alice\nalice", "alice (+get", "alice #12"] {
            assert_eq!(UserLines::parse(wrong), None, "{wrong}");
        }
    }
}
