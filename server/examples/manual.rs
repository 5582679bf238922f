//! Writes the man page and the completions of `mooncake-server` into a directory: `cargo xtask manual`.
//!
//! Role: made from the same command that the binary parses its flags with, so that neither can be behind it.

use clap_complete::Shell;
use std::io::Result;
use std::path::PathBuf;

fn main() -> Result<()> {
    let dir = PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| "target/manual".into()));
    std::fs::create_dir_all(&dir)?;
    let mut command = server::cli::command();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(dir.join("mooncake-server.1"), page)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut command, "mooncake-server", &dir)?;
    }
    println!("{}", dir.display());
    Ok(())
}
