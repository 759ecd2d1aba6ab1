//! [`Report`]: what people and programs see of a `submit` while it goes on.

use std::{io, path::Path, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use segfleet_common::{
    args::{Format, View},
    forms,
    result::Outcome,
    stdout,
};

use super::{
    super::{Exit, remark, say},
    Done,
};
use crate::{
    config::SubmitArgs,
    output::{Summary, Table, trace_note},
};

/// Prints and counts.
pub(super) struct Report {
    /// The rows that are printed, unless documents are.
    table: Option<Table>,
    wait: bool,
    summary: Summary,
    n_holes_lost: usize,
    /// Why something that was to be printed is lost.
    unprinted: Option<io::Error>,
    /// Shown on a terminal only.
    bar: ProgressBar,
}

impl Report {
    pub(super) fn new(args: &SubmitArgs) -> Self {
        let is_table = args.format == Format::View(View::Table) || args.out.is_some();
        let names: Vec<String> = args
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let table = is_table.then(|| Table::for_files(names.iter().map(String::as_str)));
        Self {
            table,
            wait: !args.no_wait,
            summary: Summary::default(),
            n_holes_lost: 0,
            unprinted: None,
            bar: progress_bar(args.files.len()),
        }
    }

    pub(super) fn add(&mut self, file: &Path, done: Done) {
        let bar = self.bar.clone();
        // Off the screen while there is something to print.
        bar.suspend(|| self.print(file, done));
        if self.summary.n_failed > 0 {
            bar.set_message(format!(", {} failed", self.summary.n_failed));
        }
        bar.inc(1);
    }

    /// Tells people something while they wait.
    pub(super) fn tell(&self, text: &str) {
        self.bar.suspend(|| remark(text));
    }

    /// The last lines. `text` is what there is of all results together.
    pub(super) fn end(mut self, total: Duration, text: Option<Vec<u8>>) -> Exit {
        self.bar.finish_and_clear();
        if let Some(text) = text {
            self.put(&text);
        }
        if let Some(lost) = forms::lost_holes(self.n_holes_lost) {
            remark(&lost);
        }
        if self.wait {
            remark(&self.summary.describe(total));
        }
        if let Some(error) = &self.unprinted {
            remark(&format!("standard output cannot be written: {error}"));
        }
        if self.summary.n_failed == 0 && self.unprinted.is_none() {
            Exit::Ok
        } else {
            Exit::NotOk
        }
    }

    fn print(&mut self, file: &Path, done: Done) {
        let (result, time, written) = match done {
            Done::Submitted(id) => {
                self.summary.n_ok += 1;
                return say(id.as_str());
            }
            Done::Failed(why) => {
                self.summary.n_failed += 1;
                return remark(&why);
            }
            Done::Answered {
                result,
                time,
                written,
            } => (result, time, written),
        };
        let name = file.display().to_string();
        if let Some(table) = &self.table {
            if self.summary.latencies.is_empty() {
                say(&table.header());
            }
            say(&table.row(&name, &result, time));
        }
        if let Some(text) = &written.text {
            self.put(text);
        }
        self.summary.latencies.push(time);
        self.n_holes_lost += written.n_holes_lost;
        match (&result.outcome, written.failure) {
            (Outcome::Ok(_), None) => self.summary.n_ok += 1,
            (Outcome::Ok(_), Some(why)) => {
                self.summary.n_failed += 1;
                remark(&format!("{name}: {why}"));
            }
            (outcome, _) => {
                self.summary.n_failed += 1;
                // Otherwise nothing has told of it yet.
                if self.table.is_none() && written.text.is_none() {
                    remark(&format!("{name}: {}{}", why(outcome), trace_note(&result)));
                }
            }
        }
    }

    /// Prints a document; what keeps it from being printed is told at the end.
    fn put(&mut self, text: &[u8]) {
        if let Err(error) = stdout::print(text) {
            self.unprinted = Some(error);
        }
    }
}

fn why(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Error(error) => error.to_string(),
        Outcome::Ok(_) | Outcome::Expired | Outcome::Cancelled => outcome.status().to_owned(),
    }
}

/// On standard error, and hidden where that is no terminal.
fn progress_bar(n_files: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(n_files as u64), ProgressDrawTarget::stderr());
    let template = "{wide_bar} {pos} of {len}{msg}, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("a template that was tried");
    let bar = bar.with_style(style);
    // The time goes on when nothing comes.
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
