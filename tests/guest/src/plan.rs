//! What a guest is to do: written by the runner on the host, read by the guest's first program.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A guest's whole life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Directory of the kernel's modules, as below `/lib/modules`.
    pub modules_dir: PathBuf,
    /// The kernel's release, which names that directory in the guest.
    pub release: String,
    /// Modules to load, in this order. What they need is loaded with them.
    pub modules: Vec<String>,
    /// 1, or 2 of a pair. Also the last part of the guest's address.
    pub node: u8,
    /// Whether a link to another guest carries RDMA; else a dummy interface does.
    pub linked: bool,
    /// The environment of all that runs.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub dir: PathBuf,
    /// What runs.
    pub work: Work,
}

/// What a guest runs before it ends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Tests, one process each, one after another.
    Tests(Vec<Test>),
    /// One command.
    Command(Vec<String>),
}

/// One test of a test program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    /// Name of the program.
    pub suite: String,
    /// Name of the test in it.
    pub name: String,
    /// The program.
    pub binary: PathBuf,
    /// Time it may take before it counts as failed and is killed with all that it started.
    pub seconds_max: u64,
}
