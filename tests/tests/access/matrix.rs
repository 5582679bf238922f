//! Every command × every category × inside and outside the key pattern, made from the table of commands: what is refused, and
//! that a refusal tells nothing.

use super::say;
use protocol::command::{Acl, CommandId as Id, Flags, Spec};
use tests::{Server, Wire, sample};

/// Keys that users of the matrix may touch begin so.
const INSIDE: &str = "in:";

fn noperm(reply: &[u8]) -> bool {
    reply.starts_with(b"-NOPERM ")
}

/// Commands that end, mute or hold up the connection that runs them, or change the users.
fn disturbs(spec: &Spec) -> bool {
    matches!(
        spec.id,
        Id::Shutdown
            | Id::Quit
            | Id::Reset
            | Id::Monitor
            | Id::Subscribe
            | Id::PSubscribe
            | Id::Unsubscribe
            | Id::PUnsubscribe
            | Id::SSubscribe
            | Id::SUnsubscribe
            | Id::ClientReply
            | Id::ClientPause
            | Id::ClientKill
            | Id::DebugSleep
            | Id::Hello
            | Id::Auth
            | Id::Multi
            | Id::AclDelUser
            | Id::AclLoad
            | Id::AclSetUser
    )
}

fn ask(wire: &mut Wire, words: &[String]) -> Vec<u8> {
    wire.exchange(words).unwrap_or_else(|| panic!("the connection ends after {words:?}"))
}

/// The verdict on a request without running it: whether it is allowed.
fn dry_run(admin: &mut Wire, user: &str, request: &[String]) -> bool {
    let mut words: Vec<String> = ["ACL", "DRYRUN", user].map(str::to_owned).to_vec();
    words.extend_from_slice(request);
    let reply = ask(admin, &words);
    assert!(reply == b"+OK\r\n" || reply.starts_with(b"$"), "{request:?}: {}", reply.escape_ascii());
    reply == b"+OK\r\n"
}

#[test]
fn no_command_of_any_category_reaches_beyond_its_users_rights() {
    let server = Server::start(&["--cluster-enabled", "yes"]);
    let mut admin = Wire::connect(server.addr());
    let (mut allowed, mut refused) = (0, 0);
    for (group, word) in Acl::WORDS {
        let rules = format!("ACL SETUSER {word} on nopass ~{INSIDE}* &* -@all +@{word}");
        assert_eq!(say(&mut admin, &rules), "+OK");
        let mut user = Wire::connect(server.addr());
        assert_eq!(say(&mut user, &format!("AUTH {word} x")), "+OK");
        for spec in sample::commands() {
            let keys = sample::keys(spec);
            // All keys inside, then each of them outside: one that is there, and one that is not.
            let inside = sample::request(spec, |n| format!("{INSIDE}{n}"));
            let outside = |at: usize, name: &str| {
                sample::request(spec, |n| if n == at { format!("out:{name}") } else { format!("{INSIDE}{n}") })
            };
            let reaches_all = spec.access_all.is_some() || spec.id == Id::Attach;
            let command = spec.acl.contains(group) || spec.flags.contains(Flags::NO_AUTH);
            assert_eq!(dry_run(&mut admin, word, &inside), command && !reaches_all, "@{word}: {inside:?}");
            for name in ["present", "absent"] {
                assert_eq!(say(&mut admin, &format!("SET out:present {word}")), "+OK");
                let requests = (0..keys).map(|at| outside(at, name)).collect::<Vec<_>>();
                for request in &requests {
                    assert!(!dry_run(&mut admin, word, request), "@{word}: {request:?}");
                }
            }
            // What is refused runs for real: it does nothing, and says the same whatever is there.
            let mut run = |request: &[String], is_refused: bool| {
                let reply = ask(&mut user, request);
                assert_eq!(noperm(&reply), is_refused, "@{word}: {request:?}: {}", reply.escape_ascii());
                reply
            };
            if !command || reaches_all {
                run(&inside, true);
                refused += 1;
            } else if !disturbs(spec) {
                run(&inside, false);
                allowed += 1;
            }
            for at in 0..keys {
                let (present, absent) = (run(&outside(at, "present"), true), run(&outside(at, "absent"), true));
                assert_eq!(present, absent, "@{word}: {} tells whether a key is there", spec.full_name);
                refused += 2;
            }
        }
        assert_eq!(
            say(&mut admin, "GET out:present"),
            format!("${} {word}", word.len()),
            "@{word} changed what is not its own"
        );
        assert_eq!(say(&mut admin, "EXISTS out:absent"), ":0");
    }
    println!("{refused} refused, {allowed} allowed and run");
    assert!(refused > 5_000 && allowed > 300, "{refused} refused, {allowed} allowed");
}

/// Who may only read or only write a key cannot do the other to it, by any command there is.
#[test]
fn reading_and_writing_are_apart_for_every_command() {
    use protocol::command::Access;
    let server = Server::start(&[]);
    let mut admin = Wire::connect(server.addr());
    for (user, rule, has) in [("reader", "%R~*", Access::READ), ("writer", "%W~*", Access::WRITE)] {
        assert_eq!(say(&mut admin, &format!("ACL SETUSER {user} on nopass {rule} &* +@all")), "+OK");
        let mut wire = Wire::connect(server.addr());
        assert_eq!(say(&mut wire, &format!("AUTH {user} x")), "+OK");
        for spec in sample::commands().filter(|spec| sample::keys(spec) > 0) {
            let request = sample::request(spec, |n| format!("k{n}"));
            let all_but_last =
                if sample::keys(spec) > 1 { spec.access } else { spec.access_last.unwrap_or(spec.access) };
            let needs = all_but_last | spec.access_last.unwrap_or(spec.access);
            let may = has.contains(needs);
            assert_eq!(dry_run(&mut admin, user, &request), may, "{user}: {request:?}");
            if !may {
                assert!(noperm(&ask(&mut wire, &request)), "{user}: {request:?}");
            }
        }
    }
    assert_eq!(say(&mut admin, "DBSIZE"), ":0", "nobody wrote anything");
}
