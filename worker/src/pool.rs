//! [`Pool`]: the threads that compute, apart from those that talk to the broker.
//!
//! Each source has a queue of its own and the threads take from them in turn, so a model with many waiting
//! jobs does not starve another. The queues need no bound: a task is only queued by a delivery that holds a
//! slot. A panic in a task ends the task, not the thread.

use std::{
    any::Any,
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
};

use thiserror::Error;
use tokio::sync::oneshot;

type Task = Box<dyn FnOnce() + Send>;

/// A task that panicked: a bug, with what the panic said.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("the job's computation panicked: {0}")]
pub(crate) struct Panicked(String);

/// A fixed number of threads. They end when the pool leaves scope, each after the task that it is in.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
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
        let queues = (0..n_sources).map(|_| VecDeque::new()).collect();
        let state = Mutex::new(State {
            queues,
            turn: 0,
            closed: false,
        });
        let pool = Self {
            shared: Arc::new(Shared {
                state,
                changed: Condvar::new(),
            }),
        };
        for index in 0..n_threads {
            let shared = pool.shared.clone();
            thread::Builder::new()
                .name(format!("compute-{index}"))
                .spawn(move || shared.compute())?;
        }
        Ok(pool)
    }

    /// Queues `task` behind the others of its source and waits for its value.
    ///
    /// # Errors
    /// [`Panicked`] when it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        source: usize,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Panicked> {
        let (sender, receiver) = oneshot::channel();
        let task = move || {
            let value =
                catch_unwind(AssertUnwindSafe(task)).map_err(|panic| Panicked(message(&*panic)));
            // Nobody waits any more when the delivery was given back.
            drop(sender.send(value));
        };
        self.shared.lock().queues[source].push_back(Box::new(task));
        self.shared.changed.notify_one();
        receiver
            .await
            .expect("a task that is queued runs, and sends whether it panics or not")
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

    fn compute(&self) {
        while let Some(task) = self.next() {
            task();
        }
    }

    /// Waits for a task; `None` when the pool has been closed.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(task) = state.take_turn() {
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

    use super::*;

    #[tokio::test]
    async fn values_come_back_and_a_panic_is_told() {
        let pool = Pool::start(2, 1).expect("threads");
        assert_eq!(pool.run(0, || 7).await, Ok(7));
        let panicked = pool.run(0, || panic!("bad {}", "luck")).await;
        assert_eq!(panicked, Err::<(), _>(Panicked("bad luck".to_owned())));
        assert_eq!(pool.run(0, || 8).await, Ok(8), "the thread lives on");
    }

    #[tokio::test]
    async fn sources_take_turns() {
        let pool = Pool::start(1, 2).expect("a thread");
        let (start, started) = mpsc::channel::<()>();
        let (log, logged) = mpsc::channel();
        let task = |source: usize, name: &'static str| {
            let log = log.clone();
            pool.run(source, move || log.send(name).expect("the test listens"))
        };
        let block = pool.run(0, move || started.recv().expect("the test starts it"));
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
