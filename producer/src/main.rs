//! The `segfleet` command.

use std::{fmt, process::ExitCode};

use clap::Parser;
use segfleet_common::telemetry;
use segfleet_producer::{
    commands::{self, Exit},
    config::Args,
};

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(&args.log) {
        return complain(&error, Exit::Usage);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error, Exit::NotOk),
    };
    match runtime.block_on(commands::run(args)) {
        Ok(exit) => exit.into(),
        Err(error) => complain(&error, error.exit()),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "an error of a command belongs there, as clap's do"
)]
fn complain(error: &dyn fmt::Display, exit: Exit) -> ExitCode {
    let mistakes = error.to_string();
    mistakes.lines().for_each(|line| eprintln!("error: {line}"));
    exit.into()
}
