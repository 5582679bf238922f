//! What is shipped for Prometheus and Grafana names only what a server has.

use std::collections::BTreeSet;
use std::path::Path;
use tests::http::{get, samples};
use tests::{Raw, Server};

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of metrics in a text, and the labels that it asks of each: `name{a="1",b=~"2"}`.
fn named(text: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, _) in text.match_indices("mooncake_") {
        if text[..at].ends_with(is_name) {
            continue;
        }
        let rest = &text[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let selector =
            rest[end..].strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        let labels = selector.split(',').filter_map(|part| Some(part.split_once('=')?.0.trim().to_owned()));
        found.push((rest[..end].to_owned(), labels.collect()));
    }
    found
}

/// Texts of all `expr` and `query` strings.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str() {
                    Some(text) if matches!(name.as_str(), "expr" | "query" | "definition") => {
                        found.push(text.to_owned())
                    }
                    _ => expressions(field, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// Names and labels of what a server with a flash tier shows once every kind of thing has happened.
fn shown() -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let server = Server::start_with_flash("64 MiB", &[]);
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["SET", "m@00000000@0@ab@salt", "v"]).text(), "OK");
    assert_eq!(raw.ask(&["GET", "m@00000000@0@ab@salt"]).text(), "v");
    tests::server::until("it is counted", std::time::Duration::from_secs(20), || {
        get(&server, "/metrics").body.contains("mooncake_salt_objects{")
    });
    let text = get(&server, "/metrics").body;
    let (mut names, mut labels) = (BTreeSet::new(), BTreeSet::new());
    for sample in samples(text.trim_end_matches("# EOF\n")).keys() {
        let (name, rest) = sample.split_once('{').unwrap_or((sample, ""));
        names.insert(name.to_owned());
        for part in rest.trim_end_matches('}').split(',') {
            if let Some((label, _)) = part.split_once('=') {
                labels.insert((name.to_owned(), label.to_owned()));
            }
        }
    }
    (names, labels)
}

#[test]
fn every_metric_of_dashboard_and_alerts_exists() {
    let dashboard: serde_json::Value = serde_json::from_str(&shipped("grafana.json")).expect("it is JSON");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 38));
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(variables, ["instance", "tier"]);
    let mut texts = Vec::new();
    expressions(&dashboard, &mut texts);
    assert!(texts.len() > 30, "{} expressions", texts.len());
    texts.push(shipped("alerts.yml"));
    let (names, labels) = shown();
    for (name, asked) in texts.iter().flat_map(|text| named(text)) {
        assert!(names.contains(&name), "there is no {name}; there are {names:?}");
        for label in asked.into_iter().filter(|label| label != "instance") {
            assert!(
                labels.contains(&(name.clone(), label.clone())),
                "{name} has no label {label}; there are {labels:?}"
            );
        }
    }
}
