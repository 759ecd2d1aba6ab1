//! `segfleet-worker` as a process of its own.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::fleet::soon;

/// The program of this build.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_segfleet-worker");

/// Runs the program to its end.
pub(crate) fn segfleet_worker(args: &[&str]) -> Output {
    clean(Command::new(PROGRAM).args(args))
        .output()
        .expect("it runs")
}

/// A running worker whose log is kept; killed when it leaves scope.
pub(crate) struct Program {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts `segfleet-worker run` with these arguments, of which spaces are the ends.
    pub(crate) fn run(server: &str, args: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "--server", server]);
        Self::start(command.args(args.split_whitespace()))
    }

    /// The same with a limit of its memory, which kills it as a container's would: an allocation fails.
    pub(crate) fn run_limited(server: &str, args: &str, limit_mib: u32) -> Self {
        let limited = format!("ulimit -d {}; exec \"$0\" \"$@\"", limit_mib * 1024);
        let mut command = Command::new("sh");
        command.args(["-c", &limited, PROGRAM, "run", "--server", server]);
        Self::start(command.args(args.split_whitespace()))
    }

    fn start(command: &mut Command) -> Self {
        let started = clean(command).stderr(Stdio::piped()).spawn();
        let mut child = started.expect("it runs");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = kept.lock().expect("nobody panics under the lock");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.log
            .lock()
            .expect("nobody panics under the lock")
            .clone()
    }

    /// Waits until its log has these words.
    pub(crate) async fn until_it_says(&self, words: &str) {
        let said = async {
            while !self.log().contains(words) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(&format!("the words {words:?}"), said).await;
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it was started").is_none()
    }

    /// Waits for its end; the code is `None` where a signal ended it.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        let ended = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it was started") {
                    return status.code();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("the worker's end", ended).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends a signal to a process that runs.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &process.to_string()])
        .status();
    assert!(
        sent.expect("kill runs").success(),
        "process {process} was not running any more"
    );
}

/// The child processes of `parent` whose command line has these words.
pub(crate) fn children(parent: u32, words: &str) -> Vec<u32> {
    let ids = fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |id: &u32| {
        // It may have ended meanwhile. After the name in brackets come the state and the parent.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        rest.split(' ').nth(1) == Some(&parent.to_string()) && line.contains(words)
    };
    ids.filter(is_child).collect()
}

/// The settings of whoever runs the tests are not the tests'.
fn clean(command: &mut Command) -> &mut Command {
    let inherited = std::env::vars_os().map(|(name, _)| name);
    let ours = |name: &OsString| {
        let name = name.to_string_lossy();
        let ours = ["SEGFLEET_", "OTEL_", "RUST_LOG"];
        ours.iter().any(|ours| name.starts_with(ours))
    };
    for name in inherited.filter(ours) {
        command.env_remove(name);
    }
    // Tests read the logs as people do.
    command.env("SEGFLEET_LOG_FORMAT", "text")
}
