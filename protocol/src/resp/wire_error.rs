//! Errors on the wire: a stable first word for programs, then text for people.

use std::borrow::Cow;
use std::fmt;

macro_rules! error_words {
    ($($name:ident $word:literal $meaning:literal;)+) => {
        /// The first word of an error. Stable: programs branch on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorWord {
            $(#[doc = $meaning] $name,)+
        }

        impl ErrorWord {
            /// Every word, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it stands on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// What it means and what to do about it.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)+
                }
            }
        }
    };
}

error_words! {
    Err "ERR" "The request cannot be executed as written; the text says why.";
    WrongType "WRONGTYPE" "The key holds another kind of value.";
    NoAuth "NOAUTH" "Authenticate first, with `AUTH` or `HELLO … AUTH`.";
    WrongPass "WRONGPASS" "User name or password is wrong.";
    NoPerm "NOPERM" "The user may not run this command or touch this key.";
    NoProto "NOPROTO" "`HELLO` asked for a protocol version other than 2 and 3.";
    Oom "OOM" "No room for the object now, and nothing may be evicted for it. Back off and try again.";
    Loading "LOADING" "The node is starting. Try again in a moment.";
    ReadOnly "READONLY" "The node takes no writes.";
    Moved "MOVED" "Another node owns the key's slot: the text names it.";
    Ask "ASK" "Another node has the key for now: the text names it.";
    TryAgain "TRYAGAIN" "The cluster is changing. Try again.";
    ClusterDown "CLUSTERDOWN" "The cluster cannot serve the slot.";
    Exists "EXISTS" "A live object has this key and `REPLACE` was not given.";
    NoGrant "NOGRANT" "The grant is unknown, used up or past its deadline. Start again with `PUT`.";
    NoLease "NOLEASE" "The lease is unknown or has ended. Take another.";
    Crc "CRC" "The bytes that arrived have another checksum than the one given. Nothing was published; write again.";
    Stale "STALE" "What was named belongs to an earlier life of the object or of the node. Look it up again.";
    Quota "QUOTA" "The client or its tenant holds as much as it may. Release something or wait.";
    TooBig "TOOBIG" "The object, batch or duration is above the configured limit, which the text names.";
    Busy "BUSY" "The resource is in use by somebody else. Try again.";
    NoTransport "NOTRANSPORT" "The transport asked for is not there. Use `VIA auto` or another one.";
    ExecAbort "EXECABORT" "A command of the transaction was refused when it was queued: none of them ran.";
    BusyKey "BUSYKEY" "Something has this key and `REPLACE` was not given.";
    Denied "DENIED" "The operation is not allowed here, whoever asks.";
}

impl ErrorWord {
    /// The word that `text` is, if it is one of ours.
    pub fn parse(text: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|word| word.as_str().as_bytes() == text)
    }
}

impl fmt::Display for ErrorWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error reply. Its text is one line, whatever it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireError {
    word: ErrorWord,
    text: Cow<'static, str>,
}

impl WireError {
    /// With `text` for people; line ends in it become spaces.
    pub fn new(word: ErrorWord, text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        let text = if text.bytes().any(|byte| byte.is_ascii_control()) {
            Cow::Owned(text.chars().map(|c| if c.is_ascii_control() { ' ' } else { c }).collect())
        } else {
            text
        };
        Self { word, text }
    }

    /// `ERR` with `text`.
    pub fn err(text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorWord::Err, text)
    }

    /// Redis's answer to options it does not understand.
    pub fn syntax() -> Self {
        Self::err("syntax error")
    }

    /// Redis's answer to a number that is none.
    pub fn not_an_integer() -> Self {
        Self::err("value is not an integer or out of range")
    }

    /// Redis's answer to too few or too many arguments.
    pub fn arity(command: &str) -> Self {
        Self::err(format!("wrong number of arguments for '{command}' command"))
    }

    /// Redis's answer to a time to live that is none.
    pub fn invalid_expire(command: &str) -> Self {
        Self::err(format!("invalid expire time in '{command}' command"))
    }

    /// The stable first word.
    pub fn word(&self) -> ErrorWord {
        self.word
    }

    /// The text after it.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.word, self.text)
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_its_text_is() {
        let error = WireError::err("a\r\n+OK\r\nb\0");
        assert_eq!(error.to_string(), "ERR a  +OK  b ");
    }

    #[test]
    fn words_are_distinct_and_read_back() {
        for &word in ErrorWord::ALL {
            assert_eq!(ErrorWord::parse(word.as_str().as_bytes()), Some(word));
        }
        assert_eq!(ErrorWord::parse(b"WHAT"), None);
    }
}
