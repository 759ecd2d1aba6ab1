//! The `segfleet-worker` command.

use std::{os::unix::process::CommandExt as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser;
use segfleet_common::{shutdown, telemetry};
use segfleet_worker::{
    args::{Args, Command, ModelCommand, RunArgs},
    child::{self, ChildError, NO_MODEL},
    config::Config,
    engine::QUIET,
    fetch::fetch_models,
    load::ModelError,
    local::{self, LocalError},
    run,
};

/// A job did not end `ok`, or a worker's end was not as it should be, or it could not begin.
const NOT_OK: u8 = 1;
/// The arguments are wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(&args.log) {
        return complain(&error.to_string(), USAGE);
    }
    let load = args.command.load_args();
    if load.is_some_and(|load| !load.engine.is_quiet()) {
        return complain(&start_quietly().to_string(), NOT_OK);
    }
    match args.command {
        Command::Run(args) => {
            serve(*args).unwrap_or_else(|error| complain(&format!("{error:#}"), NOT_OK))
        }
        Command::Segment(args) => end(local::segment(&args)),
        Command::Outline(args) => end(local::outline(&args).map(|()| true)),
        Command::Model(ModelCommand::Check(args)) => end(local::check(&args).map(|()| true)),
        Command::Child(args) => match child::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error @ ChildError::Model(_)) => complain(&error.to_string(), NO_MODEL),
            Err(error) => complain(&error.to_string(), NOT_OK),
        },
    }
}

/// Starts this process anew with the variable that keeps ONNX Runtime from sending usage data: the library looks for it
/// in the environment that a process began with. Returns only if that fails.
fn start_quietly() -> std::io::Error {
    let (name, value) = QUIET;
    let mut arguments = std::env::args_os();
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(arguments.next().unwrap_or_default());
    command.args(arguments).env(name, value).exec()
}

fn serve(args: RunArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown::on_signal().context("failed to listen for signals")?;
        let fetching = Box::pin(fetch_models(&args, &shutdown));
        let fetched = shutdown.run_until_cancelled(fetching).await;
        let Some(fetched) = fetched.transpose()? else {
            return Ok(ExitCode::SUCCESS);
        };
        let config = match Config::build(args, fetched) {
            Ok(config) => config,
            Err(mistakes) => return Ok(complain(&mistakes, USAGE)),
        };
        let report = run(config, shutdown).await?;
        anyhow::Ok(ExitCode::from(if report.is_good() { 0 } else { NOT_OK }))
    });
    // A thread may still be in a job that was given back; it must not keep the process.
    runtime.shutdown_background();
    ended
}

fn end(ended: Result<bool, LocalError>) -> ExitCode {
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(NOT_OK),
        Err(error) => complain(
            &error.to_string(),
            match error {
                LocalError::Model(ModelError::Unknown(_)) | LocalError::Terminal => USAGE,
                LocalError::Model(ModelError::Engine(_) | ModelError::Package(_))
                | LocalError::Read { .. }
                | LocalError::Write { .. }
                | LocalError::Image { .. } => NOT_OK,
            },
        ),
    }
}

#[expect(clippy::print_stderr, reason = "mistakes belong there, as clap's do")]
fn complain(mistakes: &str, code: u8) -> ExitCode {
    mistakes.lines().for_each(|line| eprintln!("error: {line}"));
    ExitCode::from(code)
}
