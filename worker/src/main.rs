//! The `segfleet-worker` command.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use segfleet_common::{result::Outcome, shutdown, telemetry};
use segfleet_worker::{
    config::{Args, Command, Config, RunArgs, SegmentArgs},
    local, run,
};

/// A job did not end `ok`, or a drain was not complete.
const NOT_OK: u8 = 1;
/// The arguments are wrong.
const USAGE: u8 = 2;

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    telemetry::init(&args.log)?;
    match args.command {
        Command::Run(args) => serve(args),
        Command::Segment(args) => segment(&args),
    }
}

fn serve(args: RunArgs) -> anyhow::Result<ExitCode> {
    let config = match Config::build(args) {
        Ok(config) => config,
        Err(mistakes) => {
            complain(&mistakes);
            return Ok(ExitCode::from(USAGE));
        }
    };
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    let report = runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("failed to listen for signals")?;
        anyhow::Ok(run(config, shutdown).await?)
    })?;
    // A thread may still be in a job that was given back; it must not keep the process.
    runtime.shutdown_background();
    Ok(if report.drained {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_OK)
    })
}

#[expect(clippy::print_stdout, reason = "the result of a command belongs there")]
fn segment(args: &SegmentArgs) -> anyhow::Result<ExitCode> {
    let result = local::segment_file(args)?;
    println!("{}", local::describe(&result, args.format));
    Ok(if matches!(result.outcome, Outcome::Ok(_)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_OK)
    })
}

#[expect(
    clippy::print_stderr,
    reason = "mistakes in the arguments belong there, as clap's do"
)]
fn complain(mistakes: &str) {
    mistakes.lines().for_each(|line| eprintln!("error: {line}"));
}
