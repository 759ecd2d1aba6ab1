//! How results and the fleet's state look as text. Pure: nothing is printed here.

use std::time::Duration;

use segfleet_common::{
    broker::{DeadLetter, StreamStatus, WorkerEntry},
    package::StoredPackage,
    result::{JobResult, Object, Outcome},
    subject::Tenant,
};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// The rows of submitted files, with columns wide enough for all of them.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    file_width: usize,
}

impl Table {
    /// Makes room for these names.
    #[must_use]
    pub fn for_files<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        let longest = names.map(|name| name.chars().count()).max().unwrap_or(0);
        Self {
            file_width: longest.max("FILE".len()),
        }
    }

    /// The line above the rows.
    #[must_use]
    pub fn header(&self) -> String {
        self.columns(["FILE", "OBJECTS", "AREA", "TIME", "WORKER"])
    }

    /// One result. The area is that of all objects, as a share of the image; the time is the client's, from
    /// submitting to receiving.
    #[must_use]
    pub fn row(&self, file: &str, result: &JobResult, time: Duration) -> String {
        let worker = result.worker.as_deref().unwrap_or("-");
        let time = format!("{:.0} ms", time.as_secs_f64() * 1e3);
        match &result.outcome {
            Outcome::Ok(objects) => self.columns([
                file,
                &objects.len().to_string(),
                &area(result, objects),
                &time,
                worker,
            ]),
            Outcome::Error(error) => {
                let trace = trace_note(result);
                self.columns([file, "-", "-", &time, &format!("{worker}  {error}{trace}")])
            }
            Outcome::Expired | Outcome::Cancelled => self.columns([
                file,
                "-",
                "-",
                &time,
                &format!("{worker}  {}", result.outcome.status()),
            ]),
        }
    }

    fn columns(&self, [file, objects, area, time, worker]: [&str; 5]) -> String {
        let width = self.file_width;
        format!("{file:<width$}  {objects:>7}  {area:>7}  {time:>9}  {worker}")
    }
}

/// What is put behind the error of a job: the id that the fleet's logs and traces have it under.
#[must_use]
pub fn trace_note(result: &JobResult) -> String {
    let trace_id = result.trace_id.as_ref();
    trace_id.map_or_else(String::new, |id| format!(" (trace {id})"))
}

fn area(result: &JobResult, objects: &[Object]) -> String {
    let area_px: u64 = objects.iter().map(|object| object.area_px).sum();
    let image_px = result.image.as_ref().map_or(0, |image| {
        u64::from(image.width_px) * u64::from(image.height_px)
    });
    #[expect(clippy::cast_precision_loss, reason = "a share for people to read")]
    let share = 100.0 * area_px as f64 / image_px.max(1) as f64;
    format!("{share:.1} %")
}

/// How the jobs of one `submit` ended.
#[derive(Debug, Default)]
pub struct Summary {
    /// From submitting to receiving, of every answered job.
    pub latencies: Vec<Duration>,
    /// Jobs that ended `ok`.
    pub n_ok: usize,
    /// Jobs that did not, or were never submitted.
    pub n_failed: usize,
}

impl Summary {
    /// One line: how many, how fast.
    #[must_use]
    pub fn describe(&self, total: Duration) -> String {
        let n_jobs = self.n_ok + self.n_failed;
        let counts = match self.n_failed {
            0 => "all ok".to_owned(),
            n_failed => format!("{} ok, {n_failed} not", self.n_ok),
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
        let rate = self.latencies.len() as f64 / total.as_secs_f64();
        let seconds = total.as_secs_f64();
        let speed = match (
            percentile(&self.latencies, 50),
            percentile(&self.latencies, 95),
        ) {
            (Some(median), Some(p95)) => {
                format!(
                    " ({rate:.1} a second; median {} ms, 95 % within {} ms)",
                    median.as_millis(),
                    p95.as_millis()
                )
            }
            _ => String::new(),
        };
        format!("{n_jobs} jobs in {seconds:.2} s{speed}: {counts}")
    }
}

fn percentile(times: &[Duration], percent: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let last = times.len().checked_sub(1)?;
    times.get(last * percent / 100).copied()
}

/// The workers that serve a tenant, as a table.
#[must_use]
pub fn workers(workers: &[WorkerEntry], tenant: &Tenant) -> String {
    let mut lines = vec![format!("{:<40} {:>8}  {}", "WORKER", "SLOTS", "MODELS")];
    let serving = workers
        .iter()
        .filter(|worker| worker.tenants.contains(tenant));
    lines.extend(serving.map(|worker| {
        let models: Vec<String> = worker.models.iter().map(ToString::to_string).collect();
        let models = models.join(" ");
        format!("{:<40} {:>8}  {models}", worker.name, worker.n_slots)
    }));
    if lines.len() == 1 {
        lines.push("none".to_owned());
    }
    lines.join("\n")
}

/// The streams, then their consumers, as two tables. `now` is what ages are counted from.
#[must_use]
pub fn status(streams: &[StreamStatus], now: OffsetDateTime) -> String {
    let mut lines = vec![format!(
        "{:<20} {:>10} {:>12} {:>12} {:>8}",
        "STREAM", "MESSAGES", "SIZE", "LIMIT", "OLDEST"
    )];
    lines.extend(streams.iter().map(|stream| {
        let limit = stream
            .fill
            .max_bytes
            .map_or_else(|| "none".to_owned(), size);
        format!(
            "{:<20} {:>10} {:>12} {:>12} {:>8}",
            stream.name,
            stream.fill.messages,
            size(stream.fill.bytes),
            limit,
            stream
                .fill
                .oldest_at
                .map_or_else(|| "-".to_owned(), |oldest_at| age(now - oldest_at))
        )
    }));
    lines.push(String::new());
    lines.push(format!(
        "{:<20} {:<24} {:>10} {:>10} {:>12} {:>8} {:>14}",
        "STREAM", "CONSUMER", "PENDING", "IN FLIGHT", "REDELIVERED", "ORPHANS", "WAITING PULLS"
    ));
    for stream in streams {
        lines.extend(stream.consumers.iter().map(|consumer| {
            format!(
                "{:<20} {:<24} {:>10} {:>10} {:>12} {:>8} {:>14}",
                stream.name,
                consumer.name,
                consumer.pending,
                consumer.in_flight,
                consumer.redelivered,
                consumer
                    .orphans
                    .map_or_else(|| "-".to_owned(), |orphans| orphans.to_string()),
                consumer.waiting_pulls
            )
        }));
    }
    lines.join("\n")
}

/// Dead letters, a line each.
#[must_use]
pub fn dead(letters: &[DeadLetter]) -> String {
    let mut lines = vec![format!(
        "{:<36}  {:<16}  {:<18}  {:<20}  {:>10}",
        "JOB", "MODEL", "REASON", "GIVEN UP", "SIZE"
    )];
    lines.extend(letters.iter().map(|letter| {
        format!(
            "{:<36}  {:<16}  {:<18}  {:<20}  {:>10}",
            letter.job.job.as_str(),
            letter.job.model.to_string(),
            letter.reason,
            moment(letter.written_at),
            size(letter.payload_bytes)
        )
    }));
    lines.join("\n")
}

/// Model packages as a table.
#[must_use]
pub fn packages(packages: &[StoredPackage]) -> String {
    let mut lines = vec![format!(
        "{:<32}  {:>10}  {:<20}  {:<16}  {}",
        "MODEL", "SIZE", "PUSHED", "LICENCE", "TASK"
    )];
    lines.extend(packages.iter().map(|package| {
        format!(
            "{:<32}  {:>10}  {:<20}  {:<16}  {}",
            package.reference().to_string(),
            size(package.size_bytes),
            moment(package.pushed_at),
            package.info.licence,
            package.info.task
        )
    }));
    lines.join("\n")
}

/// All that is known of a model package.
#[must_use]
pub fn package(package: &StoredPackage) -> String {
    let lines = [
        format!("model      {}", package.reference()),
        format!("task       {}", package.info.task),
        format!("licence    {}", package.info.licence),
        format!("sha-256    {}", package.info.digest),
        format!("size       {} bytes", package.size_bytes),
        format!("pushed     {}", moment(package.pushed_at)),
        format!("pushed by  {}", package.pushed_by),
    ];
    lines.join("\n")
}

/// All that a dead letter says.
#[must_use]
pub fn dead_letter(letter: &DeadLetter) -> String {
    let mut lines = vec![
        format!("job       {}", letter.job.job),
        format!("subject   {}", letter.job),
        format!("reason    {}", letter.reason),
        format!("given up  {}", moment(letter.written_at)),
        format!("payload   {} bytes", letter.payload_bytes),
    ];
    let mut headers: Vec<String> = letter
        .headers
        .iter()
        .filter(|(name, _)| !name.to_string().starts_with("Nats-"))
        .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}: {value}")))
        .collect();
    headers.sort();
    lines.extend(headers);
    lines.join("\n")
}

/// To the second, in UTC.
fn moment(moment: OffsetDateTime) -> String {
    let whole = moment.to_offset(UtcOffset::UTC).replace_nanosecond(0);
    whole
        .ok()
        .and_then(|whole| whole.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// In its largest unit; clocks that differ do not make it negative.
fn age(age: time::Duration) -> String {
    let seconds = age.whole_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size for people to read")]
fn size(n_bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units
        .into_iter()
        .find(|(_, unit_bytes)| n_bytes >= *unit_bytes)
    {
        Some((unit, unit_bytes)) => format!("{:.1} {unit}", n_bytes as f64 / unit_bytes as f64),
        None => format!("{n_bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use segfleet_common::{
        broker::{ConsumerStatus, Fill},
        result::{ErrorCode, JobError, Timings},
        subject::Tenant,
    };

    use super::*;

    fn result(outcome: Outcome) -> JobResult {
        JobResult {
            id: "j".parse().expect("a token"),
            tenant: Tenant::default(),
            outcome,
            image: None,
            model: None,
            timings: Timings::new(),
            attempt: Some(1),
            worker: Some("w1".to_owned()),
            trace_id: None,
            metadata: None,
        }
    }

    #[test]
    fn rows_line_up_under_their_header() {
        let table = Table::for_files(["coins.png", "a"].into_iter());
        let time = Duration::from_millis(12);
        let error = Outcome::Error(JobError::new(ErrorCode::ImageMissing, "the image is empty"));
        assert_eq!(
            table.header(),
            "FILE       OBJECTS     AREA       TIME  WORKER"
        );
        assert_eq!(
            table.row("a", &result(Outcome::Ok(vec![])), time),
            "a                0    0.0 %      12 ms  w1"
        );
        assert_eq!(
            table.row("coins.png", &result(error), time),
            "coins.png        -        -      12 ms  w1  image_missing: the image is empty"
        );
    }

    #[test]
    fn the_summary_counts_and_measures() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let summary = Summary {
            latencies,
            n_ok: 99,
            n_failed: 1,
        };
        assert_eq!(
            summary.describe(Duration::from_secs(2)),
            "100 jobs in 2.00 s (50.0 a second; median 50 ms, 95 % within 95 ms): 99 ok, 1 not"
        );
        assert_eq!(
            Summary::default().describe(Duration::from_secs(1)),
            "0 jobs in 1.00 s: all ok"
        );
    }

    #[test]
    fn status_is_two_tables() {
        let consumer = ConsumerStatus {
            name: "normal-mock".to_owned(),
            pending: 3,
            in_flight: 2,
            redelivered: 1,
            orphans: Some(4),
            waiting_pulls: 0,
        };
        let stream = StreamStatus {
            name: "JOBS".to_owned(),
            fill: Fill {
                messages: 5,
                bytes: 1536,
                max_bytes: Some(4 << 30),
                oldest_at: Some(OffsetDateTime::UNIX_EPOCH),
                ..Fill::default()
            },
            consumers: vec![consumer],
        };
        let expected = "\
STREAM                 MESSAGES         SIZE        LIMIT   OLDEST
JOBS                          5      1.5 KiB      4.0 GiB    5 min

STREAM               CONSUMER                    PENDING  IN FLIGHT  REDELIVERED  ORPHANS  WAITING PULLS
JOBS                 normal-mock                       3          2            1        4              0";
        let now = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(300);
        assert_eq!(status(&[stream], now), expected);
    }
}
