//! A request for every command, made from the table: as few words as the command takes, with keys as the caller names them.

use protocol::command::{self, Spec, Syntax, SyntaxKind};

/// Every command and subcommand that does something: containers are not among them.
pub fn commands() -> impl Iterator<Item = &'static Spec> {
    let every = command::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    every.filter(|spec| spec.subcommands.is_empty() || !spec.reply.is_empty())
}

/// The words of a request. Each key is what `key` says of its number, from 0.
pub fn request(spec: &Spec, key: impl Fn(usize) -> String) -> Vec<String> {
    let mut words: Vec<String> = spec.full_name.split('|').map(str::to_owned).collect();
    let mut keys = 0;
    spec.syntax.iter().for_each(|node| add(&mut words, node, &key, &mut keys));
    words
}

/// How many keys such a request has.
pub fn keys(spec: &Spec) -> usize {
    fn of(node: &Syntax) -> usize {
        match node.kind {
            _ if node.optional => 0,
            SyntaxKind::Key => 1,
            SyntaxKind::OneOf => node.inner.first().map_or(0, of),
            SyntaxKind::Block => node.inner.iter().map(of).sum(),
            _ => 0,
        }
    }
    spec.syntax.iter().map(of).sum()
}

fn add(words: &mut Vec<String>, node: &Syntax, key: &impl Fn(usize) -> String, keys: &mut usize) {
    if node.optional {
        return;
    }
    if let Some(token) = node.token {
        words.push(token.to_owned());
    }
    match node.kind {
        SyntaxKind::Key => {
            words.push(key(*keys));
            *keys += 1;
        }
        SyntaxKind::String => words.push("x".to_owned()),
        SyntaxKind::Pattern => words.push("*".to_owned()),
        SyntaxKind::Integer | SyntaxKind::UnixTime => words.push("1".to_owned()),
        SyntaxKind::PureToken => {}
        SyntaxKind::OneOf => add(words, node.inner.first().expect("a choice has something to choose"), key, keys),
        SyntaxKind::Block => node.inner.iter().for_each(|inner| add(words, inner, key, keys)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_as_many_words_as_their_commands_take() {
        for spec in commands() {
            let words = request(spec, |n| format!("k{n}"));
            assert!(spec.takes_count(words.len()), "{words:?}");
        }
        let put = command::lookup(b"put").expect("a command");
        assert_eq!(request(put, |n| format!("k{n}")).join(" "), "put k0 LEN 1");
        let rename = command::lookup(b"rename").expect("a command");
        assert_eq!((keys(rename), request(rename, |n| format!("k{n}")).join(" ")), (2, "rename k0 k1".to_owned()));
    }
}
