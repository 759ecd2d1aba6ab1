//! `segfleet submit`: many files at once, each result printed or written as it arrives.

mod documents;
mod report;

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use segfleet_common::{
    args::default_name,
    broker::Broker,
    job::{Job, Metadata, Options},
    result::JobResult,
    subject::{JobId, ModelName},
    trace::Tracer,
};
use tokio::time::{sleep, timeout};

use self::{
    documents::{Documents, Item, Written},
    report::Report,
};
use super::{CommandError, Exit};
use crate::{
    budget::ByteBudget,
    client::{Client, Pending, SubmitError},
    config::SubmitArgs,
};

/// How long nothing may come before people are told why: first, and then between two results.
const FIRST_LULL: Duration = Duration::from_secs(5);
const LULL: Duration = Duration::from_secs(30);
/// What the command is called in traces, where nobody says otherwise.
const SERVICE: &str = "segfleet";
/// Metadata that tells a result's file.
const FILE: &str = "file";

/// What became of one file.
enum Done {
    Submitted(JobId),
    Answered {
        result: Box<JobResult>,
        time: Duration,
        written: Written,
    },
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
    documents: Arc<Documents>,
}

pub(super) async fn run(broker: Broker, args: SubmitArgs) -> Result<Exit, CommandError> {
    let tracer = Tracer::from_args(&args.traces, SERVICE, &default_name(SERVICE))?;
    let exit = submit(broker, tracer.clone(), args).await;
    tracer.end().await;
    exit
}

async fn submit(broker: Broker, tracer: Tracer, args: SubmitArgs) -> Result<Exit, CommandError> {
    let documents = Documents::new(&args)?;
    let mut report = Report::new(&args);
    let batch = Batch {
        client: Client::over(broker, args.tenant.tenant).traced(tracer),
        options: args.options.to_options(args.format),
        model: args.model,
        wait: !args.no_wait,
        timeout: args.timeout.unwrap_or(Duration::MAX),
        reading: ByteBudget::new(),
        documents: Arc::new(documents),
    };
    let started = Instant::now();
    let jobs = stream::iter(Item::all(args.files, args.format)).map(|item| {
        let batch = &batch;
        async move { (batch.one(&item).await, item) }
    });
    let mut jobs = std::pin::pin!(jobs.buffer_unordered(args.in_flight.get()));
    let mut lull = std::pin::pin!(batch.lull(FIRST_LULL));
    loop {
        tokio::select! {
            done = jobs.next() => match done {
                Some((done, item)) => report.add(&item.file, done?),
                None => break,
            },
            why = &mut lull => report.tell(&why),
        }
        lull.set(batch.lull(LULL));
    }
    batch
        .documents
        .finish()
        .map(|data_set| report.end(started.elapsed(), data_set))
}

impl Batch {
    /// Submits one file and waits for its result. Only what concerns all files is an error.
    async fn one(&self, item: &Item) -> Result<Done, CommandError> {
        let file = &*item.file;
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
                let time = started.elapsed();
                let (result, written) = self.write(item, received.result).await;
                Ok(Done::Answered {
                    result,
                    time,
                    written,
                })
            }
            Ok(Ok(None)) => Ok(Done::Submitted(id)),
            Ok(Err(Failed::One(why))) => Ok(Done::Failed(why)),
            Ok(Err(Failed::All(error))) => Err(error.into()),
            Err(_elapsed) => Ok(Done::Failed(format!(
                "{name}: no result yet; later: segfleet result {id}"
            ))),
        }
    }

    /// Says why nothing comes, when nothing has come for a while.
    async fn lull(&self, time: Duration) -> String {
        sleep(time).await;
        self.client.why_waiting(&self.model).await
    }

    /// Writes what is wanted of a result; pictures take their time, and must not hold up the connection.
    async fn write(&self, item: &Item, result: JobResult) -> (Box<JobResult>, Written) {
        let (documents, item) = (Arc::clone(&self.documents), item.clone());
        let write = move || {
            let written = documents.write(&item, &result);
            (Box::new(result), written)
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.expect("writing does not panic")
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
