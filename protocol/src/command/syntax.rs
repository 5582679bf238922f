//! The form of a command's arguments, as a tree: what `COMMAND DOCS` answers and what the documentation prints.

use std::fmt;

/// What kind of argument a node is. The words are those of `COMMAND DOCS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxKind {
    /// The name of an object.
    Key,
    /// Any bytes.
    String,
    /// A whole number.
    Integer,
    /// A point in time, counted from 1970.
    UnixTime,
    /// A glob.
    Pattern,
    /// Nothing but its token.
    PureToken,
    /// One of the nodes inside.
    OneOf,
    /// All of the nodes inside, in order.
    Block,
}

impl SyntaxKind {
    /// The word in `COMMAND DOCS`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::String => "string",
            Self::Integer => "integer",
            Self::UnixTime => "unix-time",
            Self::Pattern => "pattern",
            Self::PureToken => "pure-token",
            Self::OneOf => "oneof",
            Self::Block => "block",
        }
    }
}

/// One argument or group of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syntax {
    /// What people call it.
    pub name: &'static str,
    /// What it is.
    pub kind: SyntaxKind,
    /// The word that stands before it, or that it consists of.
    pub token: Option<&'static str>,
    /// Whether it may be left out.
    pub optional: bool,
    /// Whether it may be repeated.
    pub multiple: bool,
    /// What it is made of, for [`SyntaxKind::OneOf`] and [`SyntaxKind::Block`].
    pub inner: &'static [Syntax],
}

impl Syntax {
    const fn new(name: &'static str, kind: SyntaxKind) -> Self {
        Self { name, kind, token: None, optional: false, multiple: false, inner: &[] }
    }

    /// It may be left out.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// It may be repeated.
    #[must_use]
    pub const fn multiple(mut self) -> Self {
        self.multiple = true;
        self
    }

    /// `word` stands before it.
    #[must_use]
    pub const fn after(mut self, word: &'static str) -> Self {
        self.token = Some(word);
        self
    }
}

/// The name of an object.
pub(super) const fn key(name: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::Key)
}

/// Any bytes.
pub(super) const fn string(name: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::String)
}

/// A whole number.
pub(super) const fn integer(name: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::Integer)
}

/// A point in time.
pub(super) const fn unix_time(name: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::UnixTime)
}

/// A glob.
pub(super) const fn pattern(name: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::Pattern)
}

/// A word of the command's own.
pub(super) const fn token(name: &'static str, word: &'static str) -> Syntax {
    Syntax::new(name, SyntaxKind::PureToken).after(word)
}

/// One of `inner`.
pub(super) const fn one_of(name: &'static str, inner: &'static [Syntax]) -> Syntax {
    let mut node = Syntax::new(name, SyntaxKind::OneOf);
    node.inner = inner;
    node
}

/// All of `inner`, in order.
pub(super) const fn block(name: &'static str, inner: &'static [Syntax]) -> Syntax {
    let mut node = Syntax::new(name, SyntaxKind::Block);
    node.inner = inner;
    node
}

impl fmt::Display for Syntax {
    /// As manuals write it: `[EX seconds | PX milliseconds]`, `key [key ...]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.optional {
            f.write_str("[")?;
        }
        self.write_once(f)?;
        if self.multiple {
            f.write_str(" [")?;
            self.write_once(f)?;
            f.write_str(" ...]")?;
        }
        if self.optional {
            f.write_str("]")?;
        }
        Ok(())
    }
}

impl Syntax {
    fn write_once(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(token) = self.token {
            f.write_str(token)?;
            if self.kind != SyntaxKind::PureToken {
                f.write_str(" ")?;
            }
        }
        match self.kind {
            SyntaxKind::PureToken => Ok(()),
            SyntaxKind::OneOf | SyntaxKind::Block => {
                let separator = if self.kind == SyntaxKind::OneOf { " | " } else { " " };
                // A choice that must be made is told apart from what follows it.
                let angled = self.kind == SyntaxKind::OneOf && !self.optional;
                if angled {
                    f.write_str("<")?;
                }
                for (i, node) in self.inner.iter().enumerate() {
                    if i > 0 {
                        f.write_str(separator)?;
                    }
                    write!(f, "{node}")?;
                }
                if angled {
                    f.write_str(">")?;
                }
                Ok(())
            }
            SyntaxKind::Key | SyntaxKind::String | SyntaxKind::Integer | SyntaxKind::UnixTime | SyntaxKind::Pattern => {
                f.write_str(self.name)
            }
        }
    }
}
