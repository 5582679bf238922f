//! One user: who it is, how it proves that, and what it may. A value that is replaced, never changed in place.

use super::password::{self, Digest};
use super::rule::{self, RuleError};
use super::selector::{Refused, Selector};
use protocol::command::{Access, Spec};
use protocol::resp::Args;

/// The name of the user that a connection is before it says who it is.
pub(crate) const DEFAULT: &[u8] = b"default";

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: Box<[u8]>,
    /// Whether anybody can become it.
    pub(crate) is_on: bool,
    /// Whether any password is right.
    pub(crate) is_open: bool,
    /// What was said of `RESTORE`d payloads, which are always checked here.
    sanitize: Option<bool>,
    passwords: Vec<Digest>,
    root: Selector,
    selectors: Vec<Selector>,
}

impl User {
    /// One that may nothing, but for channels if they are open to all unless said otherwise.
    pub(crate) fn new(name: &[u8], channels_open: bool) -> Self {
        Self {
            name: name.into(),
            is_on: false,
            is_open: false,
            sanitize: None,
            passwords: Vec::new(),
            root: Selector::nothing(channels_open),
            selectors: Vec::new(),
        }
    }

    /// The default user as a server begins with it: everybody, who may everything.
    pub(crate) fn everybody() -> Self {
        Self { is_on: true, is_open: true, root: Selector::everything(), ..Self::new(DEFAULT, true) }
    }

    /// Whether nothing is refused to it.
    pub(crate) fn is_free(&self) -> bool {
        self.root.is_everything()
    }

    /// Whether whoever says this password is this user.
    pub(crate) fn admits(&self, password: &[u8]) -> bool {
        // Looked at in any case, so that its time does not tell.
        let right = password::is_one_of(password, &self.passwords);
        self.is_on && (self.is_open || right)
    }

    /// Takes this as its only password; empty asks for none.
    pub(crate) fn set_password(&mut self, password: &[u8]) {
        self.passwords.clear();
        self.is_open = password.is_empty();
        if !self.is_open {
            self.passwords.push(Digest::of(password));
        }
    }

    /// Applies rules, all or, at the first that is wrong, says which.
    pub(crate) fn apply(&mut self, rules: &[Vec<u8>], channels_open: bool) -> Result<(), (Vec<u8>, RuleError)> {
        let mut next = self.clone();
        for rule in rules {
            next.apply_one(rule, channels_open).map_err(|error| (rule.clone(), error))?;
        }
        *self = next;
        Ok(())
    }

    fn apply_one(&mut self, rule: &[u8], channels_open: bool) -> Result<(), RuleError> {
        let is = |word: &str| rule.eq_ignore_ascii_case(word.as_bytes());
        match rule {
            _ if is("on") => self.is_on = true,
            _ if is("off") => self.is_on = false,
            _ if is("nopass") => {
                self.is_open = true;
                self.passwords.clear();
            }
            _ if is("resetpass") => {
                self.is_open = false;
                self.passwords.clear();
            }
            _ if is("sanitize-payload") => self.sanitize = Some(true),
            _ if is("skip-sanitize-payload") => self.sanitize = Some(false),
            _ if is("reset") => {
                *self = Self { sanitize: Some(true), ..Self::new(&self.name, channels_open) };
            }
            _ if is("clearselectors") => self.selectors.clear(),
            [b'>', password @ ..] => self.add_password(Digest::of(password)),
            [b'#', hash @ ..] => self.add_password(Digest::parse(hash).ok_or(RuleError::BadHash)?),
            [b'<', password @ ..] => self.remove_password(Digest::of(password))?,
            [b'!', hash @ ..] => self.remove_password(Digest::parse(hash).ok_or(RuleError::BadHash)?)?,
            [b'(', inner @ .., b')'] => {
                // Written down, such a word would end the selector.
                if rule::words(inner).any(|word| word.ends_with(b")")) {
                    return Err(RuleError::Syntax);
                }
                let mut selector = Selector::nothing(channels_open);
                rule::words(inner).try_for_each(|rule| selector.apply(rule))?;
                self.selectors.push(selector);
            }
            _ => self.root.apply(rule)?,
        }
        Ok(())
    }

    fn add_password(&mut self, digest: Digest) {
        if !self.passwords.contains(&digest) {
            self.passwords.push(digest);
        }
        self.is_open = false;
    }

    fn remove_password(&mut self, digest: Digest) -> Result<(), RuleError> {
        let at = self.passwords.iter().position(|known| *known == digest).ok_or(RuleError::NoSuchPassword)?;
        self.passwords.remove(at);
        Ok(())
    }

    /// All its selectors, that of its own rules first.
    fn all(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// The selector of its own rules, and those in parentheses.
    pub(crate) fn selectors(&self) -> (&Selector, &[Selector]) {
        (&self.root, &self.selectors)
    }

    /// Why a request is refused, if it is: what the selector that came nearest says.
    pub(crate) fn check(&self, spec: &Spec, args: &Args<'_>) -> Result<(), Refused> {
        let mut nearest: Result<(), Refused> = Ok(());
        for selector in self.all() {
            match (selector.check(spec, args), nearest) {
                (Ok(()), _) => return Ok(()),
                (Err(refused), Err(before)) if before.rank() >= refused.rank() => {}
                (Err(refused), _) => nearest = Err(refused),
            }
        }
        nearest
    }

    /// Whether this may be done to a key by any command at all.
    pub(crate) fn may(&self, key: &[u8], access: Access) -> bool {
        self.all().any(|selector| selector.may(key, access))
    }

    /// Whether this may be done to every key.
    pub(crate) fn may_all(&self, access: Access) -> bool {
        self.all().any(|selector| selector.may_all(access))
    }

    /// Whether a channel may be listened to.
    pub(crate) fn may_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.all().any(|selector| selector.may_channel(channel, is_pattern))
    }

    /// Words for what it is, as `ACL GETUSER` has them.
    pub(crate) fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.is_on { "on" } else { "off" }];
        if self.is_open {
            flags.push("nopass");
        }
        match self.sanitize {
            Some(true) => flags.push("sanitize-payload"),
            Some(false) => flags.push("skip-sanitize-payload"),
            None => {}
        }
        flags
    }

    /// Its passwords, as they are kept.
    pub(crate) fn passwords(&self) -> impl ExactSizeIterator<Item = String> {
        self.passwords.iter().map(Digest::hex)
    }

    /// Its line in a file of users, and in `ACL LIST`.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut parts = vec![b"user".to_vec(), self.name.to_vec()];
        parts.extend(self.flags().into_iter().map(|flag| flag.as_bytes().to_vec()));
        parts.extend(self.passwords().map(|hash| format!("#{hash}").into_bytes()));
        parts.push(self.root.describe());
        parts.extend(self.selectors.iter().map(|selector| [b"(", selector.describe().as_slice(), b")"].concat()));
        parts.join(&b' ')
    }
}

/// Reads a line as [`User::line`] writes it, `user` left out.
pub(crate) fn parse(line: &[u8]) -> Result<User, String> {
    let mut words = rule::words(line);
    let name = words.next().ok_or("a user has a name")?;
    check_name(name)?;
    let rules = rule::whole(words)
        .map_err(|begun| format!("Unmatched parenthesis in acl selector starting at '{}'.", begun.escape_ascii()))?;
    let mut user = User::new(name, false);
    user.apply(&rules, false).map_err(|(rule, error)| format!("'{}': {error}", shown(&rule)))?;
    Ok(user)
}

/// A rule for people. Passwords stay hidden.
fn shown(rule: &[u8]) -> String {
    match rule {
        [kind @ (b'>' | b'<'), ..] => format!("{}(hidden)", char::from(*kind)),
        _ => String::from_utf8_lossy(rule).into_owned(),
    }
}

/// Refuses a name that would break a line.
pub(crate) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() || name.iter().any(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        return Err("Usernames can't contain spaces or null characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::command::resolve;
    use protocol::resp::ArgBuf;
    use rand::rngs::StdRng;
    use rand::seq::IndexedRandom as _;
    use rand::{Rng as _, SeedableRng as _};

    fn allows(user: &User, line: &str) -> bool {
        let buf = ArgBuf::new(line.split(' '));
        let args = buf.args();
        user.check(resolve(&args).expect("a command"), &args).is_ok()
    }

    #[test]
    fn a_request_is_allowed_by_one_selector_as_a_whole() {
        let user =
            parse(b"bob on nopass ~a:* %R~b:* &news.* +get +set +publish +client|id (~c:* +mget) (allkeys +stat)")
                .expect("a user");
        for (line, allowed) in [
            ("get a:1", true),
            ("get b:1", true),
            ("set b:1 v", false),
            ("mget c:1 c:2", true),
            ("mget c:1 a:1", false),
            ("stat z", true),
            ("get z", false),
            ("client id", true),
            ("client info", false),
            ("publish news.a x", true),
            ("publish other x", false),
            ("auth x", true),
        ] {
            assert_eq!(allows(&user, line), allowed, "{line}");
        }
        assert!(!user.is_free() && User::everybody().is_free());
    }

    #[test]
    fn a_word_that_would_end_its_selector_is_refused() {
        for rule in ["(~a) +get)", "(~a +select|0) +get)", "(+get ~a))"] {
            let refused = User::new(b"bob", false).apply(&[rule.into()], false);
            assert_eq!(refused, Err((rule.into(), RuleError::Syntax)), "{rule}");
        }
    }

    /// Rules in any order read back from what they are written as.
    #[test]
    fn any_user_reads_back_from_its_line() {
        const RULES: [&str; 24] = [
            "on",
            "off",
            "nopass",
            ">pw",
            ">other",
            "resetpass",
            "~a*",
            "%R~b",
            "%W~b",
            "allkeys",
            "resetkeys",
            "&c*",
            "allchannels",
            "resetchannels",
            "+@all",
            "-@all",
            "+@read",
            "-@dangerous",
            "+get",
            "-get",
            "+client|id",
            "-client",
            "+select|0",
            "(~z +@bulk -lease)",
        ];
        let seed: u64 =
            std::env::var("MOONCAKE_SEED").ok().map_or_else(rand::random, |seed| seed.parse().expect("a seed"));
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..2_000 {
            let mut user = User::new(b"bob", false);
            for _ in 0..rng.random_range(0..12) {
                let rule = RULES.choose(&mut rng).expect("some").as_bytes().to_vec();
                // What may not follow what was there before changes nothing.
                let _ = user.apply(&[rule], false);
            }
            let line = user.line();
            let read = parse(line.strip_prefix(b"user ").expect("its first word"));
            assert_eq!(read, Ok(user), "seed {seed}: {}", line.escape_ascii());
        }
    }
}
