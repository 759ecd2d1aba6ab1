//! What the scripts of `deploy` have fetched.

use std::{path::PathBuf, process::Command};

use crate::server::deploy;

/// What a script of `deploy` prints that finds something, and here must not fetch it.
pub(crate) fn found_by(script: &str, args: &[&str]) -> PathBuf {
    PathBuf::from(
        run(Command::new(deploy().join(script))
            .arg("--no-fetch")
            .args(args))
        .trim(),
    )
}

/// Runs a command, and returns what it says.
pub(crate) fn run(command: &mut Command) -> String {
    let done = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    said
}
