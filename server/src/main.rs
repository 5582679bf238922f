//! The server's binary: command line, configuration, log, then [`server::run`].

use server::Surroundings;
use server::cli::Cli;
use server::config::{Config, LogFormat, LogLevel, Value as _};
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    server::allocator::settle();
    storage::flash::meta::end_process_on_panic();
    let cli = Cli::parse();
    if cli.print_defaults {
        print!("{}", server::config::print::defaults_file());
        return ExitCode::SUCCESS;
    }
    let config = match Config::load(&cli) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    if cli.check {
        print!("{}", config.effective());
        return ExitCode::SUCCESS;
    }
    if cli.doctor {
        return if server::doctor(&config, cli.json) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let set_log_level = start_log(&config);
    if cli.recover_only {
        return match server::recover_only(config) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                tracing::error!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let file = Config::file(&cli);
    let surroundings = Surroundings { reload: Box::new(move || Config::load(&cli)), set_log_level };
    match server::run(config, file, surroundings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts the log, and returns what sets its level later.
fn start_log(config: &Config) -> Box<dyn Fn(LogLevel) + Send + Sync> {
    let filter = |level: LogLevel| EnvFilter::new(level.render());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(config.log_level))
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log_format {
        LogFormat::Text => {
            let log = log.with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |level| drop(handle.reload(filter(level))))
        }
        LogFormat::Json => {
            let log = log.json().with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            Box::new(move |level| drop(handle.reload(filter(level))))
        }
    }
}
