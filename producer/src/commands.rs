//! What each subcommand does, and the exit code that it ends with.

mod cancel;
mod dead;
mod model;
mod result;
mod setup;
mod status;
mod steward;
mod submit;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use segfleet_common::{
    broker::{Broker, ConnectError, DeadError, PackageError, StreamsError},
    trace::TraceMistakes,
};
use thiserror::Error;

use crate::{
    cancel::CancelError,
    client::{ResultError, SubmitError},
    config::{Args, Command},
    steward::StewardError,
};

/// How a command ended, as its exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// Some jobs did not end `ok`.
    NotOk,
    /// The arguments are wrong.
    Usage,
    /// The broker cannot be reached or is not set up.
    Broker,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::NotOk => 1,
            Exit::Usage => 2,
            Exit::Broker => 3,
        })
    }
}

/// A command that did not come to its end.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The broker cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The broker refuses a stream or consumer.
    #[error(transparent)]
    Streams(#[from] StreamsError),
    /// The broker did not take a job.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A dead letter is neither shown, requeued nor dropped.
    #[error(transparent)]
    Dead(#[from] DeadError),
    /// A model package is not pushed, found or removed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A result cannot be had.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// A job is neither cancelled nor known not to be.
    #[error(transparent)]
    Cancel(#[from] CancelError),
    /// A steward ended before it was told to.
    #[error(transparent)]
    Steward(#[from] StewardError),
    /// Signals cannot be waited for.
    #[error("signals cannot be waited for: {0}")]
    Signals(io::Error),
    /// A folder or file for results cannot be written.
    #[error("{path} cannot be written: {source}", path = .path.display())]
    Out {
        /// The folder or file.
        path: std::path::PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Arguments that do not go together.
    #[error("{0}")]
    Usage(String),
    /// Settings of traces that are not right.
    #[error(transparent)]
    Traces(#[from] TraceMistakes),
}

impl CommandError {
    /// The exit code that tells the caller's mistakes from the broker's state.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Submit(SubmitError::UnknownModel { .. } | SubmitError::TooLarge { .. })
            | Self::Package(PackageError::NotFound { .. } | PackageError::Exists { .. })
            | Self::Out { .. }
            | Self::Usage(_)
            | Self::Traces(_) => Exit::Usage,
            Self::Steward(StewardError::Ended(_) | StewardError::Failed(_)) => Exit::NotOk,
            Self::Connect(_)
            | Self::Steward(StewardError::Connect(_))
            | Self::Streams(_)
            | Self::Submit(SubmitError::NotSetUp(_) | SubmitError::Unavailable { .. })
            | Self::Dead(_)
            | Self::Package(PackageError::NotSetUp | PackageError::Broker(_))
            | Self::Cancel(_)
            | Self::Signals(_)
            | Self::Result(_) => Exit::Broker,
        }
    }
}

/// Runs the command that `args` name.
///
/// # Errors
/// [`CommandError`] for what ends it early; its [`CommandError::exit`] is the exit code.
pub async fn run(args: Args) -> Result<Exit, CommandError> {
    if let Command::Submit(args) = &args.command {
        args.check().map_err(CommandError::Usage)?;
    }
    if let Command::Steward(steward) = args.command {
        return steward::run(&args.connect, steward).await;
    }
    let broker = Broker::connect(&args.connect, "segfleet").await?;
    let exit = match args.command {
        Command::Setup(args) => setup::run(&broker, &args).await,
        Command::Submit(args) => submit::run(broker.clone(), args).await,
        Command::Result(args) => result::run(broker.clone(), args).await,
        Command::Status(args) => status::run(&broker, &args).await,
        Command::Dead(command) => dead::run(&broker, &command).await,
        Command::Model(command) => model::run(&broker, command).await,
        Command::Cancel(args) => cancel::run(&broker, &args).await,
        // It has run already, over connections of its own.
        Command::Steward(_) => Ok(Exit::Ok),
    };
    broker.close().await;
    exit
}

/// Prints a line of what the command was asked for.
fn say(line: &str) {
    // Whoever read it may have gone, as `head` does; the work goes on.
    drop(writeln!(io::stdout(), "{line}"));
}

/// Prints a line about the command itself, apart from what a program reads.
fn remark(line: &str) {
    drop(writeln!(io::stderr(), "{line}"));
}
