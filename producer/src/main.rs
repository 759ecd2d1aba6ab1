//! The `segfleet` command.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use segfleet_common::telemetry;
use segfleet_producer::{commands, config::Args};

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    telemetry::init(&args.log)?;
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    let exit = runtime
        .block_on(commands::run(args))
        .unwrap_or_else(|error| {
            complain(&error);
            error.exit()
        });
    Ok(exit.into())
}

#[expect(
    clippy::print_stderr,
    reason = "an error of a command belongs there, as clap's do"
)]
fn complain(error: &commands::CommandError) {
    eprintln!("error: {error}");
}
