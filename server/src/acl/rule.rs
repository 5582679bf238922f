//! The words of a user: rules one after another, selectors in parentheses, and what is wrong with them.

/// Why a rule was not applied, in Redis's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("Syntax error")]
    Syntax,
    #[error("Unknown command or category name in ACL")]
    UnknownCommand,
    #[error(
        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try \
         'resetkeys' to start with an empty list of patterns"
    )]
    KeysAfterAll,
    #[error(
        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try \
         'resetchannels' to start with an empty list of channels"
    )]
    ChannelAfterAll,
    #[error("The password you are trying to remove from the user does not exist")]
    NoSuchPassword,
    #[error("The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters")]
    BadHash,
}

/// Puts the words of each selector together: `(+get`, `~a*)` is one rule. Fails with the word that opens one which does not
/// end.
pub(crate) fn whole<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Vec<u8>>, Vec<u8>> {
    let mut rules: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for word in words {
        let rule = match open.take() {
            Some(begun) => [begun.as_slice(), b" ", word].concat(),
            None => word.to_vec(),
        };
        if rule.starts_with(b"(") && !rule.ends_with(b")") {
            open = Some(rule);
        } else {
            rules.push(rule);
        }
    }
    match open {
        Some(begun) => Err(begun.split(|&byte| byte == b' ').next().unwrap_or_default().to_vec()),
        None => Ok(rules),
    }
}

/// The words of a line.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_put_together_and_must_end() {
        let whole = |line: &str| {
            let told = |rule: Vec<u8>| String::from_utf8(rule).expect("text");
            whole(words(line.as_bytes())).map(|rules| rules.into_iter().map(told).collect::<Vec<_>>()).map_err(told)
        };
        assert_eq!(whole("on  (+get ~a*) -@all"), Ok(vec!["on".into(), "(+get ~a*)".into(), "-@all".into()]));
        assert_eq!(whole("(+get) (+set ~b)"), Ok(vec!["(+get)".into(), "(+set ~b)".into()]));
        assert_eq!(whole("on (+get ~a* +set"), Err("(+get".into()));
    }
}
