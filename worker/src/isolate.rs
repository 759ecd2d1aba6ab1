//! Having a job done in a child process: starting it, talking to it, and telling how it died.
//!
//! The child waits for its memory and its turn like any other job, and is killed when it overruns or when this
//! future is dropped. Its answer is foreign input. [`crate::child`] is the other side, and has the protocol.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use clap::ValueEnum;
use segfleet_common::{
    decode::DecodeLimits,
    result::{ErrorCode, JobError, Outcome},
    subject::JobSubject,
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    join,
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{
    child::{self, GO, Task},
    choice::child_args,
    engine::QUIET,
    memory::Reservation,
    pool::Turn,
    process::Draft,
    run_time::within,
    settle::Ending,
    settler::Settler,
    worker::{Source, Worker},
    writer::ResultWriter,
};

/// How long a child may take to be gone after its last word.
const DYING_TIMEOUT: Duration = Duration::from_secs(5);
/// What is kept of a child's last words.
const LAST_WORDS_BYTES: usize = 4096;
/// What an error says of them.
const LAST_LINE_CHARS: usize = 200;
/// The signal that a child gets from us, from the system when memory is short, or from a person.
const SIGKILL: i32 = 9;
/// The program of this process, whatever has become of its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Which deliveries are worked on in a child process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Isolate {
    /// None
    Never,
    /// From the second delivery of a job on: something went wrong with the first
    Redelivered,
    /// All
    Always,
}

impl Isolate {
    /// Whether this delivery is one of them.
    #[must_use]
    pub fn applies(self, attempt: u32) -> bool {
        match self {
            Self::Never => false,
            Self::Redelivered => attempt > 1,
            Self::Always => true,
        }
    }
}

/// When children are used, and what they are.
#[derive(Debug, Clone)]
pub struct Isolation {
    /// Which deliveries.
    pub when: Isolate,
    /// The `segfleet-worker` program to run.
    pub program: PathBuf,
}

impl Isolation {
    /// Children of this process' own program.
    #[must_use]
    pub fn of_this_program(when: Isolate) -> Self {
        Self {
            when,
            program: THIS_PROGRAM.into(),
        }
    }
}

/// A child that gave no result.
#[derive(Debug, Error)]
enum IsolateError {
    #[error("a child process cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("the child process was killed from outside, perhaps for its memory")]
    Killed,
    #[error("the child process ended with {status}{}", quoted(.last_line))]
    Died {
        status: ExitStatus,
        last_line: String,
    },
    #[error("the job ran longer than {0:?} in a child process, which was killed")]
    Overran(Duration),
}

impl From<IsolateError> for Ending {
    fn from(error: IsolateError) -> Self {
        let message = error.to_string();
        match error {
            // Neither says anything about the image.
            IsolateError::Start(_) | IsolateError::Killed => {
                Self::Failed(JobError::new(ErrorCode::Crashed, message))
            }
            IsolateError::Died { .. } => Self::GivenUp(JobError::new(ErrorCode::Crashed, message)),
            IsolateError::Overran(_) => {
                Self::GivenUp(JobError::new(ErrorCode::RunTimeExceeded, message))
            }
        }
    }
}

/// What became of talking to a child.
enum Talked {
    /// It wrote this.
    Answer(Vec<u8>),
    /// It was not let go on.
    Refused(JobError),
    /// It ran too long.
    Overran,
}

/// Has a job done in a child process.
pub(crate) async fn isolated(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    address: &JobSubject,
) -> Ending {
    let answer = match ask_child(worker, source, settler, address).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(refused)) => return Ending::Finished(settler.write(Outcome::Error(refused))),
        Err(error) => return error.into(),
    };
    let (writer, draft) = (settler.writer.clone(), settler.draft.clone());
    let address = address.clone();
    // Reading and writing a large result takes longer than an async thread may.
    let read = move || match child::read_answer(&answer, &address) {
        Ok((answered, outcome)) => end(&writer, merge(draft, answered), outcome),
        Err(why) => {
            let message = format!("the child process' answer cannot be used: {why}");
            Ending::GivenUp(JobError::new(ErrorCode::Crashed, message))
        }
    };
    let done = worker.pool.run(source.index, worker.max_run_time, read);
    done.await.unwrap_or_else(|error| error.into())
}

/// What the parent knows of a result, and then what the child does.
fn merge(known: Draft, answered: Draft) -> Draft {
    Draft {
        timings: known.timings.into_iter().chain(answered.timings).collect(),
        ..answered
    }
}

fn end(writer: &ResultWriter, draft: Draft, outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Error(error) if error.code == ErrorCode::ModelFailed => Ending::Failed(error),
        outcome => Ending::Finished(writer.write(draft, outcome)),
    }
}

/// Starts a child, talks to it, and sees it gone. The inner error is the client's fault.
async fn ask_child(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    address: &JobSubject,
) -> Result<Result<Vec<u8>, JobError>, IsolateError> {
    let limit_bytes = settler.writer.limit_bytes;
    let task = Task::new(address, &settler.input, limit_bytes).encode();
    let mut child = start(worker, source)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes = stdin.zip(stdout).expect("both are piped");
    // Given back when the child is gone, not before.
    let mut held = None;
    let talking = async {
        let talked = talk(worker, source, pipes, &task, &mut held).await;
        if matches!(talked, Ok(Talked::Refused(_) | Talked::Overran)) {
            child.start_kill()?;
        }
        talked
    };
    let (talked, last_line) = join!(talking, last_line(stderr.expect("it is piped")));
    let status = gone(&mut child).await?;
    match talked {
        Ok(Talked::Refused(error)) => Ok(Err(error)),
        Ok(Talked::Overran) => Err(IsolateError::Overran(worker.max_run_time)),
        Ok(Talked::Answer(answer)) if status.success() => Ok(Ok(answer)),
        Ok(Talked::Answer(_)) | Err(_) if status.signal() == Some(SIGKILL) => {
            Err(IsolateError::Killed)
        }
        Ok(Talked::Answer(_)) | Err(_) => Err(IsolateError::Died { status, last_line }),
    }
}

/// Starts the child of a source. It is killed when it leaves scope.
fn start(worker: &Worker, source: &Source) -> io::Result<Child> {
    let DecodeLimits {
        side_px,
        pixels,
        file_bytes,
    } = worker.limits;
    Command::new(&worker.isolation.program)
        .arg("child")
        .args(child_args(&*source.segmenter, &source.model))
        .args(["--max-side-px", &side_px.to_string()])
        .args(["--max-pixels", &pixels.to_string()])
        .args(["--max-file-bytes", &file_bytes.to_string()])
        // Its last words are for what a crash says.
        .args(["--log", "warn"])
        // Credentials are none of a child's business.
        .env_clear()
        .env(QUIET.0, QUIET.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Tells the child its task, waits for memory and for a turn, and reads its answer.
async fn talk(
    worker: &Worker,
    source: &Source,
    (mut words, mut answers): (ChildStdin, ChildStdout),
    task: &[u8],
    held: &mut Option<(Reservation, Turn)>,
) -> io::Result<Talked> {
    let asking = async {
        words.write_all(task).await?;
        answers.read_u64().await
    };
    let Some(need_bytes) = within(worker.max_run_time, asking).await else {
        return Ok(Talked::Overran);
    };
    let need_bytes = need_bytes?;
    if let Err(error) = worker.memory.check(need_bytes) {
        return Ok(Talked::Refused(error));
    }
    // First memory, then a thread, as everywhere: the other way round two jobs could wait for each other.
    let memory = worker.memory.take(need_bytes).await;
    *held = Some((memory, worker.pool.turn(source.index).await));
    let answering = async {
        words.write_u8(GO).await?;
        drop(words);
        let mut answer = Vec::new();
        let limit_bytes = worker.broker.inline_limit_bytes() as u64;
        answers.take(limit_bytes).read_to_end(&mut answer).await?;
        Ok(Talked::Answer(answer))
    };
    let answered = within(worker.max_run_time, answering).await;
    answered.unwrap_or(Ok(Talked::Overran))
}

/// The last line that a child writes to its standard error: what a crash says.
async fn last_line(mut stderr: impl AsyncRead + Unpin) -> String {
    let mut last = Vec::new();
    let mut chunk = [0; 1024];
    // A pipe that breaks has no more to say.
    while let Ok(n_bytes @ 1..) = stderr.read(&mut chunk).await {
        last.extend_from_slice(&chunk[..n_bytes]);
        let n_surplus = last.len().saturating_sub(LAST_WORDS_BYTES);
        last.drain(..n_surplus);
    }
    let text = String::from_utf8_lossy(&last);
    // After a panic's message comes advice on how to see more of it.
    let says_why = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
    let line = text.lines().rfind(says_why);
    line.unwrap_or_default()
        .chars()
        .take(LAST_LINE_CHARS)
        .collect()
}

/// Waits until a child that has closed its pipes is gone, and helps if it stays.
async fn gone(child: &mut Child) -> io::Result<ExitStatus> {
    if let Ok(status) = timeout(DYING_TIMEOUT, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

fn quoted(last_line: &str) -> String {
    if last_line.is_empty() {
        String::new()
    } else {
        format!(": {last_line}")
    }
}
