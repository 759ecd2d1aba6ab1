//! Everything dies now and then, for as long as jobs come in: workers, stewards, the broker. In the end every job has
//! one result, and a dead letter if the fleet gave it up.
//!
//! `deploy/chaos N` runs it with N jobs; the tests do with a few. The logs are in `target/tmp/chaos`.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::Cursor,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use image::{DynamicImage, ImageFormat};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::IndexedRandom as _};
use segfleet_common::{
    broker::{Broker, ConnectArgs, DeadFilter, Message},
    job::{Job, Options},
    result::{ErrorCode, Outcome},
    subject::{JobId, Tenant, header},
    wire,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    fleet::{bin, clean},
    server::Server,
};

/// Workers that are kept running.
const N_WORKERS: usize = 3;
/// How long the fleet may take to be done once it is left in peace.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a job is like. For the model `faulty` the width of an image says what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Slow,
    Aborts,
    NeverEnds,
    Fails,
    Panics,
    Garbage,
    Late,
}

impl Kind {
    /// Each as often as it stands here.
    const ALL: [Self; 20] = {
        use Kind::{Aborts, Fails, Garbage, Good, Late, NeverEnds, Panics, Slow};
        [
            Good, Good, Good, Good, Good, Good, Good, Good, Good, Good, Good, Good, Slow, Slow,
            Aborts, NeverEnds, Fails, Panics, Garbage, Late,
        ]
    };

    fn message(self) -> Message {
        let width = match self {
            Self::Good | Self::Garbage | Self::Late => 9,
            Self::Aborts => 101,
            Self::NeverEnds => 102,
            Self::Fails => 104,
            Self::Panics => 105,
            Self::Slow => 106,
        };
        let mut headers = async_nats::HeaderMap::new();
        if self == Self::Late {
            let deadline = OffsetDateTime::now_utc() + Duration::from_millis(500);
            let deadline = deadline.format(&Rfc3339).expect("a moment of this century");
            headers.insert(header::DEADLINE, deadline);
        }
        let payload = if self == Self::Garbage {
            b"garbage".to_vec()
        } else {
            wire::encode_job(&Job {
                image: png(width).into(),
                options: Options::default(),
                metadata: None,
            })
        };
        Message {
            headers,
            payload: payload.into(),
        }
    }

    /// Whether a job of this kind may end so. Any may be cancelled, and any may lose all its attempts to murder.
    fn may_end(self, outcome: &Outcome) -> bool {
        let code = match outcome {
            Outcome::Cancelled => return true,
            Outcome::Error(error) if error.code == ErrorCode::AttemptsExhausted => return true,
            Outcome::Ok(_) => return matches!(self, Self::Good | Self::Slow | Self::Late),
            Outcome::Expired => return self == Self::Late,
            Outcome::Error(error) => error.code,
        };
        match self {
            Self::Good | Self::Slow | Self::Late => false,
            Self::Aborts | Self::Panics => code == ErrorCode::Crashed,
            Self::NeverEnds => code == ErrorCode::RunTimeExceeded,
            Self::Fails => code == ErrorCode::ModelFailed,
            Self::Garbage => code == ErrorCode::BadMessage,
        }
    }
}

fn png(width: u32) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    DynamicImage::new_luma8(width, 2)
        .write_to(&mut file, ImageFormat::Png)
        .expect("memory can be written to");
    file.into_inner()
}

/// A broker, workers and a steward that are started again whenever they die.
struct Fleet {
    server: Server,
    folder: std::path::PathBuf,
    workers: Vec<Child>,
    steward: Child,
    n_started: usize,
    n_deaths: BTreeMap<&'static str, usize>,
}

impl Fleet {
    fn start() -> Self {
        let server = Server::start();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos");
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).expect("a writable target");
        let set_up = ["setup", "--model", "faulty", "--ack-wait", "2s"];
        let set_up = clean(Command::new(bin("segfleet")).args(set_up))
            .env("NATS_URL", server.url())
            .output();
        assert!(set_up.expect("it runs").status.success());
        let steward = spawn(
            &server,
            &folder,
            "steward-0",
            "segfleet",
            "steward --look-every 1s",
        );
        let mut fleet = Self {
            server,
            folder,
            workers: Vec::new(),
            steward,
            n_started: 0,
            n_deaths: BTreeMap::new(),
        };
        fleet.revive();
        fleet
    }

    /// Starts what has died, as a platform does.
    fn revive(&mut self) {
        self.workers
            .retain_mut(|worker| worker.try_wait().expect("ours").is_none());
        while self.workers.len() < N_WORKERS {
            self.n_started += 1;
            let name = format!("worker-{}", self.n_started);
            let args = format!(
                "run --model faulty --threads 1 --max-run-time 6s --drain-timeout 2s --name {name}"
            );
            self.workers.push(spawn(
                &self.server,
                &self.folder,
                &name,
                "segfleet-worker",
                &args,
            ));
        }
        if self.steward.try_wait().expect("ours").is_some() {
            self.n_started += 1;
            let name = format!("steward-{}", self.n_started);
            self.steward = spawn(
                &self.server,
                &self.folder,
                &name,
                "segfleet",
                "steward --look-every 1s",
            );
        }
    }

    /// Does one bad thing.
    fn disturb(&mut self, random: &mut ChaCha8Rng) {
        let worker = self.workers.choose(random).expect("some are kept").id();
        let thing = match random.random_range(0..10) {
            0..=3 => {
                signal(worker, "KILL");
                "worker killed"
            }
            4..=6 => {
                signal(worker, "TERM");
                "worker drained"
            }
            7 => {
                // Long enough for its leases to end.
                signal(worker, "STOP");
                std::thread::sleep(Duration::from_secs(3));
                signal(worker, "CONT");
                "worker stopped for a while"
            }
            8 => {
                drop(self.steward.kill());
                "steward killed"
            }
            _ => {
                self.server.kill();
                self.server.resume();
                "broker killed"
            }
        };
        *self.n_deaths.entry(thing).or_default() += 1;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for process in self.workers.iter_mut().chain([&mut self.steward]) {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn spawn(server: &Server, folder: &Path, name: &str, program: &str, args: &str) -> Child {
    let log = File::create(folder.join(format!("{name}.log"))).expect("a writable folder");
    clean(Command::new(bin(program)).args(args.split(' ')))
        .env("NATS_URL", server.url())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts")
}

/// It may be dead already.
fn signal(process: u32, name: &str) {
    drop(
        Command::new("kill")
            .args(["-s", name, &process.to_string()])
            .status(),
    );
}

/// Publishes jobs until `n_jobs` are stored, and cancels one now and then.
async fn submit(url: String, n_jobs: usize, mut random: ChaCha8Rng) -> Vec<(String, Kind)> {
    let broker = connect(&url).await;
    let mut jobs = Vec::new();
    for index in 0..n_jobs {
        let (name, kind) = (
            format!("j{index}"),
            *Kind::ALL.choose(&mut random).expect("some"),
        );
        let message = kind.message();
        let subject = format!("segment.jobs.public.faulty.{name}");
        // A try whose answer was lost finds the job there, or answered.
        while broker
            .publish_first(subject.clone(), message.clone())
            .await
            .is_err()
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        if random.random_range(0..30) == 0 {
            let cancel = broker
                .client()
                .request(format!("segment.cancel.public.{name}"), "".into());
            // With the steward dead nobody answers; then it is not cancelled.
            drop(tokio::time::timeout(Duration::from_secs(1), cancel).await);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..100))).await;
        jobs.push((name, kind));
    }
    jobs
}

async fn connect(url: &str) -> Broker {
    Broker::connect(&ConnectArgs::plain(url), "test")
        .await
        .expect("a broker")
}

/// Counts the live results of each job until told to stop. Some are missed while the broker is away.
async fn listen(broker: Broker, stop: &AtomicBool) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    let mut replies = broker
        .client()
        .subscribe("segment.replies.public.*")
        .await
        .expect("connected");
    while !stop.load(Ordering::Relaxed) {
        let next = tokio::time::timeout(Duration::from_millis(200), replies.next()).await;
        if let Ok(Some(reply)) = next {
            *counts.entry(reply.subject.to_string()).or_default() += 1;
        }
    }
    counts
}

async fn until_idle(fleet: &mut Fleet) -> Broker {
    let broker = connect(&fleet.server.url()).await;
    let started = Instant::now();
    loop {
        fleet.revive();
        let stream = broker.jetstream().get_stream("JOBS").await;
        if stream.is_ok_and(|stream| stream.cached_info().state.messages == 0) {
            return broker;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "jobs are left; see {}",
            fleet.folder.display()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every job has a result that it may have, and those given up exactly their dead letter.
async fn check(broker: &Broker, jobs: &[(String, Kind)]) -> BTreeMap<String, usize> {
    let mut endings = BTreeMap::new();
    let mut owed = Vec::new();
    for (name, kind) in jobs {
        let job: JobId = name.parse().expect("a token");
        let answered = broker
            .find_answer(&Tenant::default(), &job)
            .await
            .expect("asked");
        let outcome = answered.unwrap_or_else(|| panic!("{name} ({kind:?}) has no result"));
        let outcome = outcome.outcome.expect("a result of the contract");
        assert!(
            kind.may_end(&outcome),
            "{name} ({kind:?}) ended as {outcome:?}"
        );
        let ending = match outcome {
            Outcome::Error(error) => {
                if error.code.is_given_up() {
                    owed.push((error.code.as_str().to_owned(), name.clone()));
                }
                error.code.as_str()
            }
            outcome => outcome.status(),
        };
        *endings.entry(format!("{kind:?}: {ending}")).or_default() += 1;
    }
    let all = DeadFilter::all_of(Tenant::default());
    let letters = broker.dead_letters(&all).await.expect("set up");
    let mut written: Vec<_> = letters
        .into_iter()
        .map(|letter| (letter.reason, letter.job.job.to_string()))
        .collect();
    owed.sort();
    written.sort();
    assert_eq!(written, owed, "dead letters written, and owed");
    endings
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no command line of its own"
)]
fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        default
    } else {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number"))
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what happened is for whoever runs it by hand"
)]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: everything is killed for a while; run by deploy/test full, and longer by deploy/chaos"]
async fn slow_whatever_dies_every_job_ends_once() {
    let n_jobs = usize::try_from(setting("SEGFLEET_CHAOS_JOBS", 150)).expect("fewer");
    let seed = setting("SEGFLEET_CHAOS_SEED", rand::rng().random());
    eprintln!("SEGFLEET_CHAOS_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut fleet = Fleet::start();
    let url = fleet.server.url();
    let stop = AtomicBool::new(false);
    let listening = listen(connect(&url).await, &stop);
    let submitting = submit(url, n_jobs, ChaCha8Rng::seed_from_u64(seed ^ 1));
    let disturbing = async {
        let mut submitting = Box::pin(submitting);
        let jobs = loop {
            let pause = Duration::from_millis(random.random_range(200..1000));
            if let Ok(jobs) = tokio::time::timeout(pause, &mut submitting).await {
                break jobs;
            }
            tokio::task::block_in_place(|| fleet.disturb(&mut random));
            fleet.revive();
        };
        let broker = until_idle(&mut fleet).await;
        stop.store(true, Ordering::Relaxed);
        (broker, jobs)
    };
    let (live, (broker, jobs)) = tokio::join!(listening, disturbing);
    let endings = check(&broker, &jobs).await;
    eprintln!("{:#?}\n{endings:#?}", fleet.n_deaths);
    assert!(live.values().all(|count| *count == 1), "{live:?}");
    assert_eq!(endings.values().sum::<usize>(), n_jobs);
}
