//! The guest's program: everything between the kernel and a test.
//!
//! Invariants:
//! - It ends the guest, whatever happens; the host learns why from the port, or from the console if there is no port yet.

mod run;
mod system;

use anyhow::{Context as _, Result};
use guest::plan::{Plan, Work};
use guest::report::Report;
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

/// Where reports go. Cheap to clone.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    fn say(&self, report: &Report) {
        let mut file = self.0.lock().expect("nobody panics with the port");
        // The host may have gone; then the guest is killed anyway.
        let _ = file.write_all(report.line().as_bytes());
    }
}

fn main() {
    if let Err(error) = live() {
        eprintln!("guest-init: {error:#}");
    }
    system::power_off();
}

fn live() -> Result<()> {
    system::mount_all()?;
    let path = std::env::args().nth(1).context("the plan's path is the first argument")?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let plan: Plan = serde_json::from_str(&text).context("read the plan")?;
    let port = Port(Arc::new(Mutex::new(system::open_port()?)));
    let end = match begin_and_work(&plan, &port) {
        Ok(status) => Report::End(status),
        Err(error) => Report::Broken(format!("{error:#}")),
    };
    port.say(&end);
    Ok(())
}

fn begin_and_work(plan: &Plan, port: &Port) -> Result<i32> {
    let env = system::set_up(plan)?;
    let told: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    port.say(&Report::Up(told.join(" ")));
    let env: Vec<_> = env.into_iter().chain(plan.env.iter().cloned()).collect();
    match &plan.work {
        Work::Command(words) => run::command(words, &plan.dir, &env, port),
        Work::Tests(tests) => {
            for (at, test) in tests.iter().enumerate() {
                run::test(at, test, &plan.dir, &env, port)?;
            }
            Ok(0)
        }
    }
}
