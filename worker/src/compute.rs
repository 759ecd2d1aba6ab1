//! Having a job done: on a thread of the CPU pool, or in a child process ([`crate::isolate`]).
//!
//! Dropped before its end, it lets go of the job: a queued one does not begin, one on a thread stops before the model
//! runs, and a child is killed.

use std::{sync::Arc, time::SystemTime};

use segfleet_common::{
    result::{ErrorCode, JobError, Outcome},
    subject::JobSubject,
};
use tokio_util::sync::CancellationToken;

use crate::{
    isolate::isolated,
    memory::{Memory, Reservation},
    pool::TaskError,
    process::{Failure, Host, process},
    settle::Ending,
    settler::Settler,
    worker::{Source, Worker},
};

impl From<TaskError> for Ending {
    fn from(error: TaskError) -> Self {
        let code = match error {
            TaskError::Panicked(_) => ErrorCode::Crashed,
            TaskError::Overran(_) => ErrorCode::RunTimeExceeded,
        };
        Self::Failed(JobError::new(code, error.to_string()))
    }
}

/// A worker's thread, as a job on it sees it.
struct Thread {
    memory: Arc<Memory>,
    held: Option<Reservation>,
    unwanted: CancellationToken,
}

/// Why a job on a thread does not go on.
enum Refusal {
    /// It has to wait for this much memory, in bytes, and to begin again.
    Memory(u64),
    /// Nobody wants its result any more.
    Unwanted,
}

impl Host for Thread {
    type Refusal = Refusal;

    fn admit(&mut self, need_bytes: u64) -> Result<(), Failure<Refusal>> {
        self.memory.check(need_bytes)?;
        if self.held.is_none() {
            self.held = self.memory.try_take(need_bytes);
        }
        if self.held.is_none() {
            return Err(Failure::Host(Refusal::Memory(need_bytes)));
        }
        Ok(())
    }

    fn check_wanted(&self) -> Result<(), Refusal> {
        if self.unwanted.is_cancelled() {
            return Err(Refusal::Unwanted);
        }
        Ok(())
    }
}

/// Has the job of the settler's delivery done, up to the bytes of its result.
pub(crate) async fn compute(
    worker: &Worker,
    source: &Source,
    settler: &Settler<'_>,
    address: &JobSubject,
) -> Ending {
    if worker.isolation.when.applies(settler.writer.attempt) {
        return isolated(worker, source, settler, address).await;
    }
    let unwanted = CancellationToken::new();
    let _unwanted_when_dropped = unwanted.clone().drop_guard();
    let mut held = None;
    loop {
        let thread = Thread {
            memory: worker.memory.clone(),
            held: held.take(),
            unwanted: unwanted.clone(),
        };
        let task = on_thread(worker, settler, thread);
        let done = worker.pool.run(source.index, worker.max_run_time, task);
        match done.await {
            Ok(Ok(ending)) => return ending,
            Ok(Err(Refusal::Memory(need_bytes))) => {
                held = Some(worker.memory.take(need_bytes).await);
            }
            Ok(Err(Refusal::Unwanted)) => {
                unreachable!("as long as this runs, the result is wanted")
            }
            Err(error) => {
                if let TaskError::Overran(_) = error {
                    // Before the job is given back: it must not come here again.
                    worker.stop_for_overrun();
                }
                return error.into();
            }
        }
    }
}

/// The straight line as a task for a thread, which gives back the memory when it ends.
fn on_thread(
    worker: &Worker,
    settler: &Settler<'_>,
    mut thread: Thread,
) -> impl FnOnce() -> Result<Ending, Refusal> + Send + 'static {
    let input = settler.input.clone();
    let (segmenter, limits) = (settler.segmenter.clone(), worker.limits);
    let (writer, mut draft) = (settler.writer.clone(), settler.draft.clone());
    let journal = settler.journal.clone();
    let lines = tracing::Span::current();
    move || {
        let _lines = lines.entered();
        thread.check_wanted()?;
        journal.began(SystemTime::now(), &segmenter.info().version);
        let done = process(&input, &*segmenter, &limits, &mut thread, &mut draft);
        journal.worked(&draft.timings);
        match done {
            Ok(objects) => Ok(Ending::Finished(writer.write(draft, Outcome::Ok(objects)))),
            Err(Failure::Client(error)) => {
                Ok(Ending::Finished(writer.write(draft, Outcome::Error(error))))
            }
            Err(Failure::Model(error)) => Ok(Ending::Failed(error)),
            Err(Failure::Host(refusal)) => Err(refusal),
        }
    }
}
