//! The `segfleet-worker` command.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use segfleet_common::{result::Outcome, shutdown, telemetry};
use segfleet_worker::{
    config::{Args, Command, Config, OutlineArgs, SegmentArgs},
    local::{self, LocalError},
    run,
};

/// A job did not end `ok`, or a drain was not complete, or the worker could not begin.
const NOT_OK: u8 = 1;
/// The arguments are wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(&args.log) {
        return complain(&error.to_string(), USAGE);
    }
    match args.command {
        Command::Run(args) => match Config::build(args) {
            Ok(config) => {
                serve(config).unwrap_or_else(|error| complain(&format!("{error:#}"), NOT_OK))
            }
            Err(mistakes) => complain(&mistakes, USAGE),
        },
        Command::Segment(args) => segment(&args).unwrap_or_else(|error| failed(&error)),
        Command::Outline(args) => outline(&args).unwrap_or_else(|error| failed(&error)),
    }
}

fn serve(config: Config) -> anyhow::Result<ExitCode> {
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

fn segment(args: &SegmentArgs) -> Result<ExitCode, LocalError> {
    let result = local::segment_file(args)?;
    // Whoever read it may have gone, as `head` does.
    drop(writeln!(
        io::stdout(),
        "{}",
        local::describe(&result, args.format)
    ));
    Ok(if matches!(result.outcome, Outcome::Ok(_)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_OK)
    })
}

fn outline(args: &OutlineArgs) -> Result<ExitCode, LocalError> {
    let document = local::outline_file(args)?;
    if document.n_holes_lost > 0 {
        let n_holes = document.n_holes_lost;
        warn(&format!(
            "{n_holes} holes cannot be said in this format and are filled"
        ));
    }
    match &args.out {
        Some(path) => local::write(path, &document.bytes)?,
        // Whoever read it may have gone.
        None => drop(io::stdout().write_all(&document.bytes)),
    }
    Ok(ExitCode::SUCCESS)
}

fn failed(error: &LocalError) -> ExitCode {
    let code = match error {
        LocalError::Model(_) => USAGE,
        LocalError::Read { .. } | LocalError::Write { .. } | LocalError::Mask { .. } => NOT_OK,
    };
    complain(&error.to_string(), code)
}

#[expect(clippy::print_stderr, reason = "remarks belong there")]
fn warn(remark: &str) {
    eprintln!("warning: {remark}");
}

#[expect(clippy::print_stderr, reason = "mistakes belong there, as clap's do")]
fn complain(mistakes: &str, code: u8) -> ExitCode {
    mistakes.lines().for_each(|line| eprintln!("error: {line}"));
    ExitCode::from(code)
}
