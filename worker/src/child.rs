//! The child process: one job, done where its crash costs nobody else anything.
//!
//! What parent and child say to each other, each once and in this order:
//!
//! | from | to | what |
//! |---|---|---|
//! | parent | child's standard input | a task: the length of its head (4 bytes, big endian), the head as a MessagePack map, and the payload |
//! | child | parent | how much memory the image may need, in bytes (8 bytes, big endian) |
//! | parent | child | one byte: the memory is there, go on |
//! | child | parent | the result as MessagePack, up to the end of the stream |
//!
//! The child has neither a connection nor the settings of its parent, limits its own memory to what it asked for and
//! an overhead, and ends with its parent. Its standard error is for what a crash says. [`crate::isolate`] is the
//! other side.

use std::{
    fs,
    io::{self, Read, Write},
    sync::Arc,
};

use bytes::Bytes;
use rustix::process::{
    Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit,
};
use segfleet_common::{
    result::{ErrorCode, Outcome},
    subject::{JobSubject, JobSubjectError},
    wire::{self, ResultFormat},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    args::ChildArgs,
    choice::ModelChoice,
    footprint::{Footprint, data_bytes},
    load::{Loader, ModelError},
    package::Package,
    process::{Draft, Failure, Host, Input, process},
    segment::Segmenter,
    writer::ResultWriter,
};

/// Exit code of a child that cannot load its model, which says nothing of its image: `EX_TEMPFAIL` of `sysexits.h`.
pub const NO_MODEL: u8 = 75;
/// The parent's word to go on.
pub(crate) const GO: u8 = 1;
/// Largest head of a task: its headers are part of a message, which is far smaller.
const HEAD_BYTES: u32 = 1 << 26;

/// A job as a child is told of it.
#[derive(Debug)]
pub(crate) struct Task {
    head: Head,
    /// The message's payload, as it came.
    payload: Bytes,
    /// Memory that the child takes for its model, which it finds out by itself.
    pub(crate) model_bytes: u64,
}

/// All of a task but its payload.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// Where the job was published.
    subject: String,
    content_type: Option<String>,
    options: Option<String>,
    /// Largest result.
    limit_bytes: usize,
    payload_bytes: usize,
}

/// A child that cannot do its job.
#[derive(Debug, Error)]
pub enum ChildError {
    /// The parent is gone, or speaks another language.
    #[error("no word from the parent process: {0}")]
    Pipe(#[from] io::Error),
    /// The task is not one.
    #[error("the task cannot be read: {0}")]
    Task(#[from] rmp_serde::decode::Error),
    /// The task's subject is not a job's.
    #[error(transparent)]
    Subject(#[from] JobSubjectError),
    /// The model is another one than the parent's, or gone.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The system does not let it limit itself.
    #[error("the memory cannot be limited: {0}")]
    Limit(#[from] rustix::io::Errno),
}

impl Task {
    pub(crate) fn new(
        address: &JobSubject,
        input: &Input,
        limit_bytes: usize,
        model_bytes: u64,
    ) -> Self {
        Self {
            head: Head {
                subject: address.to_string(),
                content_type: input.content_type.clone(),
                options: input.options.clone(),
                limit_bytes,
                payload_bytes: input.payload.len(),
            },
            payload: input.payload.clone(),
            model_bytes,
        }
    }

    /// Largest result.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.head.limit_bytes
    }

    /// The bytes for the child, one part after the other.
    pub(crate) fn into_parts(self) -> [Bytes; 3] {
        let head = rmp_serde::to_vec_named(&self.head).expect("memory can be written to");
        let length = u32::try_from(head.len()).expect("a message has less than 4 GiB");
        let length = Bytes::copy_from_slice(&length.to_be_bytes());
        [length, head.into(), self.payload]
    }

    fn read(mut from: impl Read) -> Result<Self, ChildError> {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length).min(HEAD_BYTES);
        let mut head = vec![0; length as usize];
        from.read_exact(&mut head)?;
        let head: Head = rmp_serde::from_slice(&head)?;
        let mut payload = vec![0; head.payload_bytes];
        from.read_exact(&mut payload)?;
        Ok(Self {
            head,
            payload: payload.into(),
            model_bytes: 0,
        })
    }
}

/// Does the job that comes on standard input, and writes its result to standard output.
///
/// # Errors
/// [`ChildError`], for the parent's log.
pub fn run(args: &ChildArgs) -> Result<(), ChildError> {
    end_with_parent()?;
    // No limit yet: the parent has loaded the model too, and the file is only copied.
    let mut parent = Parent {
        words: io::stdin().lock(),
        results: io::stdout().lock(),
        own_bytes: 0,
        was_asked: false,
    };
    let Task { head, payload, .. } = Task::read(&mut parent.words)?;
    let address: JobSubject = head.subject.parse()?;
    let segmenter = load(args)?;
    parent.own_bytes = data_bytes().saturating_add(args.overhead_bytes);
    let input = Input {
        job: address.job.clone(),
        payload,
        content_type: head.content_type,
        options: head.options,
    };
    let mut draft = Draft::default();
    let limits = args.limits.to_limits();
    let outcome = match process(&input, &*segmenter, &limits, &mut parent, &mut draft) {
        Ok(objects) => Outcome::Ok(objects),
        Err(Failure::Client(error) | Failure::Model(error)) => Outcome::Error(error),
        Err(Failure::Host(error)) => return Err(error),
    };
    let writer = ResultWriter {
        id: address.job,
        tenant: address.tenant,
        model: segmenter.info().clone(),
        attempt: 1,
        worker: "child".into(),
        trace_id: None,
        format: ResultFormat::Msgpack,
        limit_bytes: head.limit_bytes,
    };
    parent.hand_over(&writer.write(draft, outcome).payload)
}

/// Loads the parent's model, and no other that has taken its place on the disk. What an image needs is reckoned as in
/// the parent, not measured anew: no two measurements are alike, and an image that fits there must fit here.
fn load(args: &ChildArgs) -> Result<Arc<dyn Segmenter>, ModelError> {
    let mut loader = Loader::new(&args.load, 1);
    match (&args.model, &args.digest) {
        (ModelChoice::Package(path), Some(digest)) => {
            let package = Package::open(path)?;
            package.check_digest(digest)?;
            let footprint = Footprint {
                inference_bytes: args.inference_bytes,
                ..Footprint::default()
            };
            loader.load_measured(&package, footprint)
        }
        (model, _) => loader.load(model),
    }
}

/// Reads a child's result, which may be anything: it comes from a process that may be broken.
pub(crate) fn read_result(bytes: &[u8], address: &JobSubject) -> Result<(Draft, Outcome), String> {
    let result =
        wire::read_result(Some(wire::MSGPACK), bytes).map_err(|error| error.to_string())?;
    if (&result.id, &result.tenant) != (&address.job, &address.tenant) {
        return Err(format!("it is the result of job {}", result.id));
    }
    let draft = Draft {
        image: result.image,
        timings: result.timings,
        metadata: result.metadata,
    };
    match result.outcome {
        Outcome::Error(error)
            if error.code.is_given_up() && error.code != ErrorCode::ModelFailed =>
        {
            Err(format!("no child gives up on its job as {}", error.code))
        }
        outcome @ (Outcome::Ok(_) | Outcome::Error(_)) => Ok((draft, outcome)),
        outcome @ (Outcome::Expired | Outcome::Cancelled) => {
            Err(format!("no child ends a job as {}", outcome.status()))
        }
    }
}

/// The parent process, as the child sees it.
struct Parent<R, W> {
    words: R,
    results: W,
    /// What the child has taken before it looked at its image, and its overhead.
    own_bytes: u64,
    was_asked: bool,
}

impl<R: Read, W: Write> Parent<R, W> {
    /// Asks for memory, once, and waits for the word to go on.
    fn ask(&mut self, need_bytes: u64) -> Result<(), ChildError> {
        self.was_asked = true;
        self.results.write_all(&need_bytes.to_be_bytes())?;
        self.results.flush()?;
        let mut word = [0];
        self.words.read_exact(&mut word)?;
        Ok(())
    }

    fn hand_over(mut self, result: &[u8]) -> Result<(), ChildError> {
        if !self.was_asked {
            self.ask(0)?;
        }
        self.results.write_all(result)?;
        Ok(self.results.flush()?)
    }
}

impl<R: Read, W: Write> Host for Parent<R, W> {
    type Refusal = ChildError;

    fn admit(&mut self, need_bytes: u64) -> Result<(), Failure<ChildError>> {
        self.ask(need_bytes).map_err(Failure::Host)?;
        let limit_bytes = need_bytes.saturating_add(self.own_bytes);
        limit_memory(limit_bytes).map_err(|error| Failure::Host(error.into()))
    }

    /// A child whose result nobody wants is killed.
    fn check_wanted(&self) -> Result<(), ChildError> {
        Ok(())
    }
}

/// Has the system kill the child when its parent dies, leave no core dump of it, and take it first when memory is
/// short. A parent that died before shows as an end of standard input.
fn end_with_parent() -> Result<(), ChildError> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?;
    // Only a net below the limit; not every system lets it be set.
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!(%error, "the system takes no advice on which process to kill first");
    }
    Ok(())
}

fn limit_memory(limit_bytes: u64) -> Result<(), rustix::io::Errno> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Data);
    let current = maximum.map_or(limit_bytes, |maximum| maximum.min(limit_bytes));
    setrlimit(
        Resource::Data,
        Rlimit {
            current: Some(current),
            maximum,
        },
    )
}
