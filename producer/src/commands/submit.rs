//! `segfleet submit`: many files at once, each result printed as it arrives.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use segfleet_common::{
    broker::Broker,
    job::{Job, Metadata, Options},
    result::{JobResult, Outcome},
    subject::{JobId, ModelName},
    wire,
};
use tokio::time::timeout;

use super::{CommandError, Exit, remark, say};
use crate::{
    budget::ByteBudget,
    client::{Client, Pending, SubmitError},
    config::{Format, SubmitArgs},
    output::{Summary, Table},
};

/// Metadata that tells a result's file.
const FILE: &str = "file";

/// What became of one file.
enum Done {
    Submitted(JobId),
    Answered(Box<JobResult>, Duration),
    /// Nothing came of it; the others go on.
    Failed(String),
}

/// What all files have in common.
struct Batch {
    client: Client,
    model: ModelName,
    options: Options,
    wait: bool,
    timeout: Duration,
    /// Files that are read and not yet with the broker.
    reading: ByteBudget,
}

pub(super) async fn run(broker: Broker, args: SubmitArgs) -> Result<Exit, CommandError> {
    let mut report = Report::new(&args)?;
    let batch = Batch {
        client: Client::over(broker, args.tenant.tenant),
        model: args.model,
        options: args.options.to_options(),
        wait: !args.no_wait,
        timeout: args.timeout.unwrap_or(Duration::MAX),
        reading: ByteBudget::new(),
    };
    let started = Instant::now();
    let jobs = stream::iter(args.files).map(|file| {
        let batch = &batch;
        async move { (batch.one(&file).await, file) }
    });
    let mut jobs = std::pin::pin!(jobs.buffer_unordered(args.in_flight.get()));
    while let Some((done, file)) = jobs.next().await {
        report.add(&file, done?)?;
    }
    Ok(report.end(started.elapsed()))
}

impl Batch {
    /// Submits one file and waits for its result. Only what concerns all files is an error.
    async fn one(&self, file: &Path) -> Result<Done, CommandError> {
        let name = file.display().to_string();
        let id = JobId::random();
        let started = Instant::now();
        let answered = timeout(self.timeout, async {
            let pending = self.submit(&id, file, &name).await?;
            if !self.wait {
                return Ok(None);
            }
            let received = self.client.wait(pending).await;
            received
                .map(Some)
                .map_err(|error| Failed::One(format!("{name}: {error}")))
        });
        match answered.await {
            Ok(Ok(Some(received))) => {
                Ok(Done::Answered(Box::new(received.result), started.elapsed()))
            }
            Ok(Ok(None)) => Ok(Done::Submitted(id)),
            Ok(Err(Failed::One(why))) => Ok(Done::Failed(why)),
            Ok(Err(Failed::All(error))) => Err(error.into()),
            Err(_elapsed) => Ok(Done::Failed(format!(
                "{name}: no result yet; later: segfleet result {id}"
            ))),
        }
    }

    async fn submit(&self, id: &JobId, file: &Path, name: &str) -> Result<Pending, Failed> {
        let unreadable = |error: io::Error| Failed::One(format!("{name} cannot be read: {error}"));
        let n_bytes = fs::metadata(file).map_err(unreadable)?.len();
        let limit_bytes = self.client.job_limit_bytes();
        if n_bytes > limit_bytes as u64 {
            let why = format!(
                "{name} has {n_bytes} bytes, this broker takes at most {limit_bytes} in one message"
            );
            return Err(Failed::One(why));
        }
        let _part = self
            .reading
            .take(usize::try_from(n_bytes).unwrap_or(usize::MAX))
            .await;
        let path = file.to_owned();
        // Slow disks must not hold up the connection.
        let read = tokio::task::spawn_blocking(move || fs::read(path)).await;
        let image = read
            .map_err(io::Error::other)
            .flatten()
            .map_err(unreadable)?
            .into();
        let job = Job {
            image,
            options: self.options.clone(),
            metadata: Some(Metadata::text(FILE, name)),
        };
        let submitted = self.client.submit_as(id.clone(), &self.model, &job).await;
        submitted.map_err(|error| match error {
            SubmitError::UnknownModel { .. } | SubmitError::NotSetUp(_) => Failed::All(error),
            SubmitError::TooLarge { .. } | SubmitError::Unavailable { .. } => {
                Failed::One(format!("{name}: {error}"))
            }
        })
    }
}

/// Why a file was not submitted or not answered.
enum Failed {
    /// It concerns this file alone.
    One(String),
    /// The others would fare no better.
    All(SubmitError),
}

/// Prints and counts.
struct Report {
    format: Format,
    table: Table,
    wait: bool,
    out: Option<PathBuf>,
    /// Names of the files written, so that none is written twice.
    written: HashSet<String>,
    summary: Summary,
}

impl Report {
    fn new(args: &SubmitArgs) -> Result<Self, CommandError> {
        if let Some(folder) = &args.out {
            fs::create_dir_all(folder).map_err(|source| CommandError::Out {
                folder: folder.clone(),
                source,
            })?;
        }
        let names: Vec<String> = args
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let table = Table::for_files(names.iter().map(String::as_str));
        Ok(Self {
            format: args.format,
            table,
            wait: !args.no_wait,
            out: args.out.clone(),
            written: HashSet::new(),
            summary: Summary::default(),
        })
    }

    fn add(&mut self, file: &Path, done: Done) -> Result<(), CommandError> {
        match done {
            Done::Submitted(id) => {
                self.summary.n_ok += 1;
                say(id.as_str());
            }
            Done::Failed(why) => {
                self.summary.n_failed += 1;
                remark(&why);
            }
            Done::Answered(result, time) => return self.answered(file, &result, time),
        }
        Ok(())
    }

    fn answered(
        &mut self,
        file: &Path,
        result: &JobResult,
        time: Duration,
    ) -> Result<(), CommandError> {
        if self.format == Format::Table && self.summary.latencies.is_empty() {
            say(&self.table.header());
        }
        match self.format {
            Format::Json => say(&wire::result_to_json(result)),
            Format::Table => say(&self.table.row(&file.display().to_string(), result, time)),
        }
        self.summary.latencies.push(time);
        match result.outcome {
            Outcome::Ok(_) => self.summary.n_ok += 1,
            Outcome::Error(_) | Outcome::Expired | Outcome::Cancelled => self.summary.n_failed += 1,
        }
        self.write(file, result)
    }

    fn write(&mut self, file: &Path, result: &JobResult) -> Result<(), CommandError> {
        let Some(folder) = &self.out else {
            return Ok(());
        };
        let base = file.file_name().unwrap_or_default().to_string_lossy();
        let mut name = format!("{base}.json");
        let mut n_others = 1;
        while !self.written.insert(name.clone()) {
            n_others += 1;
            name = format!("{base}-{n_others}.json");
        }
        let written = fs::write(folder.join(name), wire::result_to_json(result));
        written.map_err(|source| CommandError::Out {
            folder: folder.clone(),
            source,
        })
    }

    fn end(self, total: Duration) -> Exit {
        if self.wait {
            remark(&self.summary.describe(total));
        }
        if self.summary.n_failed == 0 {
            Exit::Ok
        } else {
            Exit::NotOk
        }
    }
}
