//! Any configuration file is taken or refused with words, and a refused `CONFIG SET` changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use server::cli::Cli;
use server::config::Config;
use std::os::fd::AsRawFd as _;

fuzz_target!(|input: (&str, Vec<(&str, &str)>)| {
    let (text, changes) = input;
    let file = memfd_create("configuration", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&file, 0).expect("empty");
    assert_eq!(rustix::io::pwrite(&file, text.as_bytes(), 0), Ok(text.len()));
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let cli = Cli::try_parse_from(["mooncake-server", "--config", &path]).expect("flags that exist");
    let mut config = match Config::load(&cli) {
        Ok(config) => config,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            Config::load(&Cli::try_parse_from(["mooncake-server"]).expect("no flags")).expect("the defaults agree")
        }
    };
    for (name, value) in changes {
        let before: Vec<_> = config.entries().collect();
        if config.set(name, value).is_err() {
            assert_eq!(config.entries().collect::<Vec<_>>(), before, "{name} {value:?} was refused");
        }
    }
});
