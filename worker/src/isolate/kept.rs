//! [`Kept`]: a child process that is kept an eye on, from its start to its end.
//!
//! Knows processes and pipes, and nothing of jobs. It is gone for certain when [`Kept::end`] has returned, whatever it
//! or a process that it left behind does with its pipes.

use std::{
    ffi::OsString,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt as _,
    join,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    select,
    time::timeout,
};

use crate::engine::QUIET;

/// How long a child may take to be gone after its last word.
const DYING_TIMEOUT: Duration = Duration::from_secs(5);
/// What is kept of what it writes to standard error.
const LAST_WORDS_BYTES: usize = 4096;
/// What an error says of that.
const LAST_LINE_CHARS: usize = 200;

/// A child process; killed when this leaves scope.
#[derive(Debug)]
pub(super) struct Kept {
    child: Child,
    /// Its standard input and output, until somebody takes them.
    pipes: Option<(ChildStdin, ChildStdout)>,
    last_words: LastWords,
}

/// How a child ended.
#[derive(Debug)]
pub(super) struct End {
    pub(super) status: ExitStatus,
    /// It did not go by itself.
    pub(super) by_us: bool,
    /// The last line that it wrote to standard error: what a crash says.
    pub(super) last_line: String,
}

/// What a child wrote last to its standard error.
#[derive(Debug)]
struct LastWords {
    stderr: ChildStderr,
    bytes: Vec<u8>,
}

impl Kept {
    /// Starts a child without the settings of this process: credentials are none of its business. It has a process
    /// group of its own, so what a terminal or a supervisor sends to ours is not sent to it.
    ///
    /// To be called on a thread that lives as long as the process: the child asks the system to be killed when its
    /// parent *thread* ends.
    pub(super) fn start(program: &Path, args: &[OsString]) -> io::Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .env_clear()
            .env(QUIET.0, QUIET.1)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let stderr = child.stderr.take().expect("it is piped");
        Ok(Self {
            child,
            pipes,
            last_words: LastWords {
                stderr,
                bytes: Vec::new(),
            },
        })
    }

    /// Its standard input and output.
    pub(super) fn take_pipes(&mut self) -> (ChildStdin, ChildStdout) {
        self.pipes.take().expect("taken once, and both are piped")
    }

    /// Waits for `talk`, and meanwhile reads what it writes to standard error, so that it need not wait.
    pub(super) async fn while_heard<T>(&mut self, talk: impl Future<Output = T>) -> T {
        select! {
            talked = talk => talked,
            never = self.last_words.listen() => match never {},
        }
    }

    /// Waits until it is gone. It is killed at once if `kill`, or else when it does not go.
    pub(super) async fn end(mut self, kill: bool) -> io::Result<End> {
        if !kill {
            let going = async { join!(self.last_words.rest(), self.child.wait()).1 };
            if let Ok(status) = timeout(DYING_TIMEOUT, going).await {
                return Ok(End {
                    status: status?,
                    by_us: false,
                    last_line: self.last_words.last_line(),
                });
            }
        }
        self.kill()?;
        // Its standard error may stay open in a process that it started; nobody waits for that.
        let status = self.child.wait().await?;
        Ok(End {
            status,
            by_us: true,
            last_line: self.last_words.last_line(),
        })
    }

    /// Kills it and what it may have started.
    fn kill(&mut self) -> io::Result<()> {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // Gone meanwhile, or not ours to kill: the next line tells.
            kill_process_group(group, Signal::KILL).unwrap_or_default();
        }
        self.child.start_kill()
    }
}

impl LastWords {
    /// Reads on and on; the end of the pipe is not the end of the child.
    async fn listen(&mut self) -> std::convert::Infallible {
        self.rest().await;
        std::future::pending().await
    }

    /// Reads up to the end of the pipe. One that breaks has no more to say.
    async fn rest(&mut self) {
        let mut chunk = [0; 1024];
        while let Ok(n_bytes @ 1..) = self.stderr.read(&mut chunk).await {
            self.bytes.extend_from_slice(&chunk[..n_bytes]);
            let n_surplus = self.bytes.len().saturating_sub(LAST_WORDS_BYTES);
            self.bytes.drain(..n_surplus);
        }
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        // After a panic's message comes advice on how to see more of it.
        let says_why = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
        let line = text.lines().rfind(says_why).unwrap_or_default();
        line.chars().take(LAST_LINE_CHARS).collect()
    }
}
