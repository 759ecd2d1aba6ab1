//! Having a job done in a child process: talking to it, and saying what its end means for the job.
//!
//! The child waits for its memory and its turn like any other job, and is killed when it overruns or when this
//! future is dropped. Its result is foreign input. [`crate::child`] is the other side, and has the protocol.

mod kept;

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use segfleet_common::{
    decode::DecodeLimits,
    result::{ErrorCode, JobError, Outcome},
    subject::JobSubject,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{ChildStdin, ChildStdout},
};

use self::kept::{End, Kept};
use crate::{
    child::{self, GO, NO_MODEL, Task},
    journal::Journal,
    load::child_args,
    memory::Reservation,
    metrics::of_model,
    pool::Turn,
    process::Draft,
    run_time::within,
    segment::Segmenter,
    settle::Ending,
    settler::Settler,
    worker::{Source, Worker},
    writer::ResultWriter,
};

/// The signals that come from people, terminals and supervisors.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;
/// The signal that the system sends when memory is short, and people when nothing else helps.
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

/// How the work of a child went. What that means for its job is [`judge`]'s to say.
#[derive(Debug)]
enum Fate {
    /// It could not be started.
    NotStarted(io::Error),
    /// It was not ready for its image in time.
    NotReady,
    /// Its image needs more memory than there ever is.
    TooLarge(JobError),
    /// It wrote this as its result, and went.
    Result(Vec<u8>),
    /// It worked on its image for too long.
    Overran,
    /// It ended before its result did, or did not end after it.
    Ended(End),
}

/// What a fate means for the job.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The result is there, to be read.
    Read(Vec<u8>),
    /// The client's fault.
    Client(JobError),
    /// It says nothing about the image: to be tried again.
    Transient(JobError),
    /// The image did it: not to be tried again.
    Fatal(JobError),
}

/// Has a job done in a child process.
pub(crate) async fn isolated(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    address: &JobSubject,
) -> Ending {
    settler.journal.isolated();
    let fate = employ(worker, source, settler, address).await;
    let result = match judge(fate, worker.max_run_time) {
        Verdict::Read(result) => result,
        Verdict::Client(error) => return Ending::Finished(settler.write(Outcome::Error(error))),
        Verdict::Transient(error) => return Ending::Failed(error),
        Verdict::Fatal(error) => return Ending::GivenUp(error),
    };
    let known = Known {
        address: address.clone(),
        writer: settler.writer.clone(),
        draft: settler.draft.clone(),
        journal: settler.journal.clone(),
    };
    // Reading and writing a large result takes longer than an async thread may.
    let rewrite = move || known.rewrite(&result);
    let done = worker.pool.run(source.index, worker.max_run_time, rewrite);
    done.await.unwrap_or_else(|error| error.into())
}

/// Says what a fate means.
fn judge(fate: Fate, max_run_time: Duration) -> Verdict {
    let crashed = |message: String| JobError::new(ErrorCode::Crashed, message);
    match fate {
        Fate::Result(result) => Verdict::Read(result),
        Fate::TooLarge(error) => Verdict::Client(error),
        Fate::NotStarted(error) => Verdict::Transient(crashed(format!(
            "a child process cannot be started: {error}"
        ))),
        Fate::NotReady => Verdict::Transient(crashed(format!(
            "the child process was not ready within {max_run_time:?}"
        ))),
        Fate::Overran => Verdict::Fatal(JobError::new(
            ErrorCode::RunTimeExceeded,
            format!(
                "the job ran longer than {max_run_time:?} in a child process, which was killed"
            ),
        )),
        Fate::Ended(End { by_us: true, .. }) => Verdict::Fatal(crashed(
            "the child process did not end after its last word, and was killed".to_owned(),
        )),
        Fate::Ended(End {
            status, last_line, ..
        }) => match status.signal() {
            Some(SIGKILL) => Verdict::Transient(crashed(
                "the child process was killed from outside, perhaps for its memory".to_owned(),
            )),
            // No image can send these.
            Some(SIGHUP | SIGINT | SIGQUIT | SIGTERM) => Verdict::Transient(crashed(format!(
                "the child process was stopped from outside: {status}"
            ))),
            None if status.code() == Some(NO_MODEL.into()) => Verdict::Transient(crashed(format!(
                "the child process cannot load its model{}",
                quoted(&last_line)
            ))),
            _ => Verdict::Fatal(crashed(format!(
                "the child process ended with {status}{}",
                quoted(&last_line)
            ))),
        },
    }
}

/// What is known of a job without its child.
struct Known {
    address: JobSubject,
    writer: ResultWriter,
    draft: Draft,
    journal: Journal,
}

impl Known {
    /// Reads a child's result, which is foreign input, and writes it as this delivery's.
    fn rewrite(self, result: &[u8]) -> Ending {
        let (child_draft, outcome) = match child::read_result(result, &self.address) {
            Ok(read) => read,
            Err(why) => {
                let message = format!("the child process' result cannot be used: {why}");
                return Ending::GivenUp(JobError::new(ErrorCode::Crashed, message));
            }
        };
        let timings = self.draft.timings.into_iter().chain(child_draft.timings);
        let draft = Draft {
            timings: timings.collect(),
            ..child_draft
        };
        self.journal.worked(&draft.timings);
        match outcome {
            Outcome::Error(error) if error.code == ErrorCode::ModelFailed => Ending::Failed(error),
            outcome => Ending::Finished(self.writer.write(draft, outcome)),
        }
    }
}

/// What a child has while it works on its image.
struct Held {
    /// When it asked for its memory, at the beginning of its first stage.
    asked_at: SystemTime,
    _memory: Reservation,
    _turn: Turn,
}

/// Starts a child, talks to it, and sees it gone.
async fn employ(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    address: &JobSubject,
) -> Fate {
    // No more than can have work, and one to be ready for the next: each has a copy of its message.
    let _place = worker.child_places.acquire().await;
    // Dropped after the child, but for what the system takes to end it.
    let mut held = None;
    let args = args(worker, source, &*settler.segmenter);
    let mut child = match Kept::start(&worker.isolation.program, &args) {
        Ok(child) => child,
        Err(error) => return Fate::NotStarted(error),
    };
    let isolated = &worker.metrics.deliveries_isolated;
    isolated.get_or_create(&of_model(&address.model)).inc();
    let model_bytes = settler.segmenter.footprint().alone_bytes();
    let limit_bytes = settler.writer.limit_bytes;
    let task = Task::new(address, &settler.input, limit_bytes, model_bytes);
    let pipes = child.take_pipes();
    let talked = child
        .while_heard(talk(worker, source, pipes, task, &mut held))
        .await;
    if let Some(held) = &held {
        let version = &settler.segmenter.info().version;
        settler.journal.began(held.asked_at, version);
    }
    let kill = matches!(
        &talked,
        Ok(Fate::NotReady | Fate::TooLarge(_) | Fate::Overran)
    );
    let end = match child.end(kill).await {
        Ok(end) => end,
        Err(error) => return Fate::NotStarted(error),
    };
    match talked {
        Ok(Fate::Result(_)) if !end.status.success() => Fate::Ended(end),
        Ok(fate) => fate,
        Err(_pipe_broke) => Fate::Ended(end),
    }
}

fn args(worker: &Worker, source: &Source, segmenter: &dyn Segmenter) -> Vec<OsString> {
    let DecodeLimits {
        side_px,
        pixels,
        file_bytes,
    } = worker.limits;
    let mut args: Vec<OsString> = vec!["child".into()];
    args.extend(child_args(segmenter, &source.model.name));
    let settings = [
        ("--max-side-px", side_px.to_string()),
        ("--max-pixels", pixels.to_string()),
        ("--max-file-bytes", file_bytes.to_string()),
        (
            "--overhead-bytes",
            worker.memory.overhead_bytes().to_string(),
        ),
        (
            "--inference-bytes",
            segmenter.footprint().inference_bytes.to_string(),
        ),
        // Its last words are for what a crash says.
        ("--log", "warn".to_owned()),
    ];
    args.extend(
        settings
            .into_iter()
            .flat_map(|(name, value)| [name.into(), value.into()]),
    );
    args
}

/// Tells the child its task, waits for memory and for a turn, and reads its result. An error is a broken pipe.
async fn talk(
    worker: &Worker,
    source: &Source,
    (mut words, mut results): (ChildStdin, ChildStdout),
    task: Task,
    held: &mut Option<Held>,
) -> io::Result<Fate> {
    let (limit_bytes, model_bytes) = (task.limit_bytes() as u64, task.model_bytes);
    let asking = async {
        for part in task.into_parts() {
            words.write_all(&part).await?;
        }
        results.read_u64().await
    };
    let Some(need_bytes) = within(worker.max_run_time, asking).await else {
        return Ok(Fate::NotReady);
    };
    let need_bytes = need_bytes?;
    let asked_at = SystemTime::now();
    if let Err(error) = worker.memory.check(need_bytes) {
        return Ok(Fate::TooLarge(error));
    }
    // First memory, then a thread, as everywhere: the other way round two jobs could wait for each other.
    let memory = worker.memory.take_for_child(need_bytes, model_bytes).await;
    *held = Some(Held {
        asked_at,
        _memory: memory,
        _turn: worker.pool.turn(source.index).await,
    });
    let working = async {
        words.write_u8(GO).await?;
        drop(words);
        let mut result = Vec::new();
        results.take(limit_bytes).read_to_end(&mut result).await?;
        Ok(Fate::Result(result))
    };
    let worked = within(worker.max_run_time, working).await;
    worked.unwrap_or(Ok(Fate::Overran))
}

fn quoted(last_line: &str) -> String {
    if last_line.is_empty() {
        String::new()
    } else {
        format!(": {last_line}")
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    /// `raw` is a status as the system has it: a signal, or an exit code times 256.
    fn check(raw: i32, by_us: bool, expected: &str) {
        let fate = Fate::Ended(End {
            status: ExitStatus::from_raw(raw),
            by_us,
            last_line: "last".to_owned(),
        });
        let verdict = match judge(fate, Duration::from_secs(2)) {
            Verdict::Transient(error) => format!("again, {error}"),
            Verdict::Fatal(error) => format!("never again, {error}"),
            Verdict::Read(_) | Verdict::Client(_) => "a result".to_owned(),
        };
        assert!(verdict.starts_with(expected), "{raw}: {verdict}");
    }

    #[test]
    fn only_what_an_image_can_do_is_held_against_it() {
        let ended = |code: i32| code << 8;
        let cases = [
            (
                6,
                "never again, crashed: the child process ended with signal: 6 (SIGABRT): last",
            ),
            (
                11,
                "never again, crashed: the child process ended with signal: 11 (SIGSEGV): last",
            ),
            (
                ended(101),
                "never again, crashed: the child process ended with exit status: 101: last",
            ),
            (
                ended(0),
                "never again, crashed: the child process ended with exit status: 0: last",
            ),
            (
                9,
                "again, crashed: the child process was killed from outside",
            ),
            (
                1,
                "again, crashed: the child process was stopped from outside: signal: 1",
            ),
            (
                2,
                "again, crashed: the child process was stopped from outside: signal: 2",
            ),
            (
                3,
                "again, crashed: the child process was stopped from outside: signal: 3",
            ),
            (
                15,
                "again, crashed: the child process was stopped from outside: signal: 15",
            ),
        ];
        for (raw, expected) in cases {
            check(raw, false, expected);
        }
        check(
            9,
            true,
            "never again, crashed: the child process did not end after its last word",
        );
    }
}
