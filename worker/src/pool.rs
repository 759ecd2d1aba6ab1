//! [`Pool`]: the threads that compute, apart from those that talk to the broker.
//!
//! Each source has a queue of its own and the threads take from them in turn, so a model with many waiting
//! jobs does not starve another. The queues need no bound: a task is only queued by a delivery that holds a
//! slot. A panic in a task ends the task, not the thread. A task that does not end keeps its thread; that is told,
//! and what to do about it is the worker's part.

use std::{
    any::Any,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::run_time::within;

/// A task that came to no value.
#[derive(Debug, PartialEq, Eq, Error)]
pub(crate) enum TaskError {
    /// A bug, with what the panic said.
    #[error("the job's computation panicked: {0}")]
    Panicked(String),
    /// It ran longer than it may, and still does: a thread cannot be stopped from outside.
    #[error("the job's computation ran longer than {0:?}")]
    Overran(Duration),
}

/// A fixed number of threads. They end when the pool leaves scope, each after the task that it is in.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

/// A turn on the pool's threads for computing that is done elsewhere: one thread does nothing until it leaves scope.
#[derive(Debug)]
pub(crate) struct Turn {
    _end: oneshot::Sender<()>,
}

struct Task {
    run: Box<dyn FnOnce() + Send>,
    /// It computes on the thread itself, and so can overrun.
    computes: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// One per source.
    queues: Vec<VecDeque<Task>>,
    /// The source whose turn is next.
    turn: usize,
    /// For each thread the number of the task that it computes.
    computing: Vec<Option<u64>>,
    /// Tasks begun so far.
    n_begun: u64,
    closed: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `n_threads` threads for `n_sources` sources.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start(n_threads: usize, n_sources: usize) -> io::Result<Self> {
        let state = Mutex::new(State {
            queues: (0..n_sources).map(|_| VecDeque::new()).collect(),
            turn: 0,
            computing: vec![None; n_threads],
            n_begun: 0,
            closed: false,
        });
        let pool = Self {
            shared: Arc::new(Shared {
                state,
                changed: Condvar::new(),
            }),
        };
        for thread in 0..n_threads {
            let shared = pool.shared.clone();
            thread::Builder::new()
                .name(format!("compute-{thread}"))
                .spawn(move || shared.work(thread))?;
        }
        Ok(pool)
    }

    /// Queues `task` behind the others of its source and waits for its value; from its start for at most `longest`.
    ///
    /// # Errors
    /// [`TaskError`] when it panics or overruns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        source: usize,
        longest: Duration,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskError> {
        let (start, started) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        // Nobody listens any more when the delivery was given back.
        let run = move || {
            start.send(()).unwrap_or_default();
            let value = catch_unwind(AssertUnwindSafe(task))
                .map_err(|panic| TaskError::Panicked(message(&*panic)));
            drop(end.send(value));
        };
        self.queue(source, true, run);
        started.await.expect("a task that is queued runs");
        let ended = within(longest, ended).await;
        let value = ended.ok_or(TaskError::Overran(longest))?;
        value.expect("a task sends whether it panics or not")
    }

    /// Waits for a turn behind the tasks of the source.
    pub(crate) async fn turn(&self, source: usize) -> Turn {
        let (start, started) = oneshot::channel();
        let (end, ended) = oneshot::channel::<()>();
        let run = move || {
            // Without anybody to take the turn it is over.
            if start.send(()).is_ok() {
                drop(ended.blocking_recv());
            }
        };
        self.queue(source, false, run);
        started.await.expect("a task that is queued runs");
        Turn { _end: end }
    }

    /// The numbers of the tasks that threads compute now, counted from the pool's start.
    pub(crate) fn computing(&self) -> Vec<u64> {
        let state = self.shared.lock();
        state.computing.iter().flatten().copied().collect()
    }

    fn queue(&self, source: usize, computes: bool, run: impl FnOnce() + Send + 'static) {
        let run = Box::new(run);
        self.shared.lock().queues[source].push_back(Task { run, computes });
        self.shared.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No task runs under the lock, so a panic cannot leave the queues half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, thread: usize) {
        while let Some(task) = self.next(thread) {
            (task.run)();
            self.lock().computing[thread] = None;
        }
    }

    /// Waits for a task; `None` when the pool has been closed.
    fn next(&self, thread: usize) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(task) = state.take_turn() {
                state.n_begun += 1;
                state.computing[thread] = task.computes.then_some(state.n_begun);
                return Some(task);
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn take_turn(&mut self) -> Option<Task> {
        let n_queues = self.queues.len();
        for offset in 0..n_queues {
            let source = (self.turn + offset) % n_queues;
            if let Some(task) = self.queues[source].pop_front() {
                self.turn = source + 1;
                return Some(task);
            }
        }
        None
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::future::join_all;
    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn values_come_back_and_a_panic_is_told() {
        let pool = Pool::start(2, 1).expect("threads");
        assert_eq!(pool.run(0, LONG, || 7).await, Ok(7));
        let panicked = pool.run(0, LONG, || panic!("bad {}", "luck")).await;
        let expected = TaskError::Panicked("bad luck".to_owned());
        assert_eq!(panicked, Err::<(), _>(expected));
        assert_eq!(pool.run(0, LONG, || 8).await, Ok(8), "the thread lives on");
    }

    #[tokio::test]
    async fn what_overruns_is_told_and_waiting_does_not_count() {
        let pool = Pool::start(1, 1).expect("a thread");
        let longest = Duration::from_millis(50);
        let (release, released) = mpsc::channel::<()>();
        let endless = pool.run(0, longest, move || {
            released.recv().unwrap_or_default();
        });
        let queued = pool.run(0, longest, || 1);
        let watch = async {
            let overran = endless.await;
            assert_eq!(overran, Err(TaskError::Overran(longest)));
            assert_eq!(pool.computing(), [1], "and goes on");
            drop(release);
        };
        let ((), queued) = tokio::join!(watch, queued);
        assert_eq!(queued, Ok(1), "its time began with its turn");
    }

    #[tokio::test]
    async fn a_turn_keeps_a_thread_until_it_is_over() {
        let pool = Pool::start(1, 1).expect("a thread");
        drop(pool.turn(0));
        let turn = pool.turn(0).await;
        let mut task = Box::pin(pool.run(0, LONG, || 1));
        let early = timeout(Duration::from_millis(20), &mut task).await;
        assert!(early.is_err(), "the thread is not free");
        assert!(pool.computing().is_empty(), "nothing computes");
        drop(turn);
        assert_eq!(task.await, Ok(1));
    }

    #[tokio::test]
    async fn sources_take_turns() {
        let pool = Pool::start(1, 2).expect("a thread");
        let (start, started) = mpsc::channel::<()>();
        let (log, logged) = mpsc::channel();
        let task = |source: usize, name: &'static str| {
            let log = log.clone();
            pool.run(source, LONG, move || {
                log.send(name).expect("the test listens")
            })
        };
        let block = pool.run(0, LONG, move || started.recv().expect("the test starts it"));
        let release = async { start.send(()).expect("the first task waits") };
        let queued = [
            task(0, "a1"),
            task(0, "a2"),
            task(0, "a3"),
            task(1, "b1"),
            task(1, "b2"),
        ];
        let (blocked, done, ()) = tokio::join!(block, join_all(queued), release);
        blocked.expect("no panic");
        assert!(done.into_iter().all(|result| result.is_ok()));
        assert_eq!(
            logged.try_iter().collect::<Vec<_>>(),
            ["b1", "a1", "b2", "a2", "a3"]
        );
    }
}
