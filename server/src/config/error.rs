//! What is wrong with a configuration: where it stands, what it is called, what would be right.

use super::table::{SettingInfo, settings};
use super::{Origin, redis};
use std::fmt;

/// Everything that is wrong with a configuration. Printed one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong, and what is allowed.
    pub text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.origin, problem.text)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Problem {
    /// `text` is not allowed for `info`.
    pub(super) fn refused(origin: Origin, info: &SettingInfo, text: &str) -> Self {
        let shown = if info.secret { "(hidden)".to_owned() } else { format!("{text:?}") };
        Self { origin, text: format!("{} = {shown} is not allowed: {}", info.name, info.allowed()) }
    }

    /// There is no setting called `name`.
    pub(super) fn unknown(origin: Origin, name: &str) -> Self {
        Self { origin, text: format!("there is no setting {name:?}{}", suggestion(name)) }
    }
}

/// Why a running server did not change a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Nothing is called so.
    #[error("Unknown option or number of arguments for CONFIG SET - '{name}'{suggestion}")]
    Unknown {
        /// As it was asked for.
        name: String,
        /// Text to append, naming the nearest; may be empty.
        suggestion: String,
    },
    /// Only a restart changes it.
    #[error("CONFIG SET failed - '{name}' is immutable: it can only be set when the server starts")]
    Fixed {
        /// The setting.
        name: &'static str,
    },
    /// The value is of the wrong kind or out of its range.
    #[error("CONFIG SET failed - '{name}' allows {allowed}")]
    Refused {
        /// The setting.
        name: &'static str,
        /// What would be right.
        allowed: String,
    },
    /// The value contradicts that of another setting.
    #[error("CONFIG SET failed - '{name}' {why}")]
    Disagrees {
        /// The setting.
        name: &'static str,
        /// The contradiction.
        why: String,
    },
}

impl SetError {
    pub(super) fn unknown(name: &str) -> Self {
        Self::Unknown { name: name.to_owned(), suggestion: suggestion(name) }
    }

    pub(super) fn refused(info: &SettingInfo, _text: &str) -> Self {
        Self::Refused { name: info.name, allowed: info.allowed() }
    }
}

/// The known name nearest to `name`, if any is near.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('_', "-");
    settings()
        .iter()
        .map(|info| info.name)
        .map(|known| (strsim::damerau_levenshtein(known, &name), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min()
        .map(|(_, known)| known)
}

fn suggestion(name: &str) -> String {
    match redis::meant(name).or_else(|| nearest(name)) {
        Some(known) => format!("; did you mean {known}?"),
        None => String::new(),
    }
}
