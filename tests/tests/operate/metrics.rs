//! The metrics port: Prometheus, health, `/status`, and the page in a real browser.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use tests::http::{Answer, ask, get, samples};
use tests::server::{Mark, until};
use tests::{Raw, Server, peer};

const LLAMA: &str = "meta-llama/Llama-3.1-8B@00000000@0@ab01@acme";

/// Writes and reads so much that every tier and counter has something.
fn busy(server: &Server) -> Raw {
    let mut raw = Raw::to(server);
    assert_eq!(raw.ask(&["SET", LLAMA, &"v".repeat(100_000)]).text(), "OK");
    assert_eq!(raw.ask(&["SET", "Qwen/Qwen2@2@1@cd02@half", &"w".repeat(1000)]).text(), "OK");
    assert_eq!(raw.ask(&["SET", "evil\"} 1\n@00000000@0@ab@x\\", "v"]).text(), "OK");
    for _ in 0..3 {
        assert_eq!(raw.ask(&["GET", LLAMA]).text().len(), 100_000);
        assert_eq!(raw.ask(&["GET", "nothing"]), tests::Value::Nil);
    }
    assert!(raw.ask(&["LEASE", LLAMA, "60000"]).has("lease"));
    assert!(raw.ask(&["PUT", "pending", "LEN", "4096"]).has("grant"));
    assert!(raw.ask(&["COMMIT", "00", "CRC", "00000000"]).is_error("NOGRANT"));
    raw
}

/// Waits until the models of these keys were counted.
fn counted(server: &Server, objects: u64) -> serde_json::Value {
    let mut status = serde_json::Value::Null;
    until("the objects are counted", Duration::from_secs(20), || {
        status = serde_json::from_str(&get(server, "/status").body).expect("it is JSON");
        status["owners"]["objects"] == objects
    });
    status
}

#[test]
fn prometheus_reads_what_clients_did() {
    let server = Server::start_with_flash("256 MiB", &[]);
    let _raw = busy(&server);
    counted(&server, 3);
    let answer = get(&server, "/metrics");
    assert!(answer.code == 200 && answer.head.contains("application/openmetrics-text"), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
    let samples = samples(answer.body.trim_end_matches("# EOF\n"));
    let sample = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in {}", answer.body));
    for (name, value) in [
        ("mooncake_stage{stage=\"serving\"}", 1.0),
        ("mooncake_objects", 3.0),
        ("mooncake_hits_total{tier=\"dram\"}", 4.0),
        ("mooncake_misses_total", 3.0),
        ("mooncake_leases", 1.0),
        ("mooncake_grants", 1.0),
        ("mooncake_tier_online{tier=\"flash\",device=\"0\"}", 1.0),
        ("mooncake_errors_total{word=\"NOGRANT\"}", 1.0),
        ("mooncake_commands_failed_total{command=\"commit\"}", 1.0),
        ("mooncake_command_duration_seconds_count{command=\"get\",tier=\"dram\"}", 6.0),
        ("mooncake_command_duration_seconds_bucket{le=\"+Inf\",command=\"get\",tier=\"dram\"}", 6.0),
        ("mooncake_model_objects{model=\"meta-llama/Llama-3.1-8B\"}", 1.0),
        ("mooncake_model_object_bytes{model=\"Qwen/Qwen2\"}", 1000.0),
        ("mooncake_model_objects{model=\"evil\\\"} 1\\n\"}", 1.0),
        ("mooncake_salt_object_bytes{salt=\"acme\"}", 100_000.0),
    ] {
        assert_eq!(sample(name), value, "{name}");
    }
    assert!(sample("mooncake_transfer_bytes_total{transport=\"resp\",direction=\"in\"}") > 100_000.0);
    assert!(sample("mooncake_command_duration_seconds_sum{command=\"get\",tier=\"dram\"}") > 0.0);
    let states: f64 =
        samples.iter().filter(|(name, _)| name.starts_with("mooncake_dram_state_bytes")).map(|(_, bytes)| bytes).sum();
    assert_eq!(
        states,
        sample("mooncake_tier_capacity_bytes{tier=\"dram\",device=\"dram\"}"),
        "states sum up to all DRAM"
    );
}

#[test]
fn reads_of_flash_have_a_latency_of_their_own() {
    let mut server = Server::start_with_flash("64 MiB", &["--promote-on", "never"]);
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["SET", "k", &"v".repeat(100_000)]).text(), "OK");
    // After a restart it lies on flash alone.
    raw.request(&["SHUTDOWN"]).expect("sent");
    assert!(server.wait().success(), "{}", server.log());
    let server = server.restart();
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["GET", "k"]).text().len(), 100_000);
    let samples = samples(get(&server, "/metrics").body.trim_end_matches("# EOF\n"));
    assert_eq!(samples["mooncake_command_duration_seconds_count{command=\"get\",tier=\"flash\"}"], 1.0);
    assert_eq!(samples["mooncake_hits_total{tier=\"flash\"}"], 1.0);
    assert_eq!(samples["mooncake_flash_reads_total{device=\"0\"}"], 1.0);
    // The one read is not counted again as one of DRAM.
    assert!(!samples.contains_key("mooncake_command_duration_seconds_count{command=\"get\",tier=\"dram\"}"));
}

#[test]
fn status_says_how_the_node_is_and_no_secret() {
    let server = Server::start(&["--requirepass", "hunter2"]);
    let mut raw = Raw::to(&server);
    assert_eq!(raw.ask(&["AUTH", "hunter2"]).text(), "OK");
    assert_eq!(raw.ask(&["SET", LLAMA, "v"]).text(), "OK");
    let lease = raw.ask(&["LEASE", LLAMA, "60000"]);
    let status = counted(&server, 1);
    assert_eq!(status["stage"], "serving");
    assert_eq!(status["tiers"][0]["name"], "dram");
    assert_eq!(status["lent"]["leases"], 1);
    assert_eq!(status["owners"]["models"][0]["name"], "meta-llama/Llama-3.1-8B");
    assert_eq!(status["owners"]["salts"][0]["name"], "acme");
    assert_eq!(status["health"]["score"], 100 - 2 * status["health"]["findings"].as_array().expect("a list").len());
    let text = status.to_string();
    for secret in ["hunter2", "ab01", lease.field("lease").text()] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn a_node_is_ready_once_it_serves_and_healthy_before() {
    let server = Server::start(&[]);
    assert_eq!(get(&server, "/healthz").body, "ok\n");
    assert_eq!((get(&server, "/readyz").code, get(&server, "/readyz").body.as_str()), (200, "serving\n"));
    // A tier that must be recovered first: until then it listens and is not ready.
    let mut with_flash = Server::start_with_flash("64 MiB", &[]);
    let (dir, args) = (with_flash.shared_dir(), with_flash.args().to_vec());
    with_flash.kill();
    drop(with_flash);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let server = Server::try_start(dir, &args, Mark::Listening).expect("it listens");
    until("it is ready", Duration::from_secs(30), || {
        let ready = get(&server, "/readyz");
        assert!(ready.code == 200 || ready.code == 503 && ready.body.starts_with("loading"), "{ready:?}");
        assert_eq!(get(&server, "/healthz").code, 200);
        ready.code == 200
    });
}

#[test]
fn nothing_else_is_to_be_had_there() {
    let server = Server::start(&[]);
    let ask = |method: &str, path: &str, host: &str| ask(server.metrics(), method, path, host).expect("it answers");
    assert_eq!(ask("GET", "/nothing", "localhost").code, 404);
    assert_eq!(ask("POST", "/status", "localhost").code, 405);
    assert_eq!(ask("GET", "/status", "rebound.example").code, 421, "a name of the web that leads here");
    let Answer { code, head, body } = ask("GET", "/", "127.0.0.1");
    assert!(code == 200 && head.contains("default-src 'none'"), "{head}");
    for external in ["http://", "https://", "src=", "@import"] {
        let body = body.replace("http://www.w3.org/", "");
        assert!(!body.contains(external), "the page needs {external} of somewhere else");
    }
}

#[test]
fn those_who_never_finish_a_request_leave_room_for_others() {
    let server = Server::start(&[]);
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(server.metrics()).expect("it accepts")).collect();
    for socket in &mut held {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: lo").expect("it takes a few bytes");
    }
    // All seats are taken: the port is served again as soon as these are closed for their slowness.
    until("the slow ones are closed", Duration::from_secs(30), || {
        ask(server.metrics(), "GET", "/healthz", "localhost").is_ok_and(|answer| answer.code == 200)
    });
    for mut socket in held {
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket has one");
        let mut rest = Vec::new();
        // Closed, with a word or without.
        let _ = socket.read_to_end(&mut rest);
    }
}

#[test]
fn the_page_shows_the_node_in_a_browser() {
    let Some(chromium) = peer::find("chromium") else { return };
    let server = Server::start_with_flash("256 MiB", &[]);
    let _raw = busy(&server);
    counted(&server, 3);
    let mut command = Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", server.dir().join("browser").display()))
        .arg(format!("http://{}/", server.metrics()));
    let output = peer::run(&mut command, "");
    let page = &output.text;
    assert!(page.contains("data-shown=\"yes\""), "the page's program did not run to its end: {page}");
    for shown in ["class=\"badge serving\"", "meta-llama/Llama-3.1-8B", "acme", "flash.0", "bulk TCP", "grants"] {
        assert!(page.contains(shown), "no {shown} in {page}");
    }
    // What a client wrote is text, whatever it looks like.
    assert!(page.contains("evil\"} 1"), "{page}");
}
