//! Images that kill, hang and devour, and what is left of the fleet. What an image of the model `faulty` does, its
//! width says.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use segfleet_common::{
    broker::Settings,
    decode::DecodeLimits,
    result::{JobResult, Outcome},
};
use segfleet_worker::{
    config::Config,
    isolate::{Isolate, Isolation},
    segment,
};

use crate::{
    fleet::{Fleet, JobMessage, Worker, ending, soon},
    models::{encode, png},
    program::{PROGRAM, Program, children, signal},
};

const ABORTS_PX: u32 = 101;
const NEVER_ENDS_PX: u32 = 102;
const EATS_MEMORY_PX: u32 = 103;
const FAILS_PX: u32 = 104;
const PANICS_PX: u32 = 105;
const SLOW_PX: u32 = 106;
/// What an error says of a child that ate all its memory.
const OUT_OF_MEMORY: &str = "memory allocation of 1048576 bytes failed";

fn image(width: u32) -> JobMessage {
    JobMessage::image(&png(width, 2))
}

/// A worker inside this process that does every job in a child. Its children can be told by the limit of sides.
fn isolated(fleet: &Fleet, side_px: u32) -> Config {
    let name = "faulty".parse().expect("a token");
    let segmenter = segment::load(&name).expect("in test builds");
    Config {
        isolation: Isolation {
            when: Isolate::Always,
            program: PROGRAM.into(),
        },
        limits: DecodeLimits {
            side_px,
            ..DecodeLimits::STANDARD
        },
        ..fleet.config("faulty", segmenter)
    }
}

/// Waits until this process has so many children with this limit.
async fn until_n_children(side_px: u32, n_children: usize) -> Vec<u32> {
    until_n_children_of(std::process::id(), side_px, n_children).await
}

async fn until_n_children_of(parent: u32, side_px: u32, n_children: usize) -> Vec<u32> {
    let look = async {
        loop {
            let found = children(
                parent,
                &format!(" child --model faulty --max-side-px {side_px} "),
            );
            if found.len() == n_children {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(&format!("the sight of {n_children} children"), look).await
}

fn retry_soon(attempts: u32) -> Settings {
    Settings {
        ack_wait: Some(Duration::from_secs(2)),
        attempts: Some(attempts),
        ..Settings::default()
    }
}

/// A worker works on neighbours when the bad image comes; whoever looks after it starts it anew when it ends. It ends
/// once, the bad job gets its error, and all neighbours end well.
async fn one_worker_is_lost(width: u32, args: &str, expected: &str) {
    let fleet = Fleet::start(&["faulty"], retry_soon(5)).await;
    let replies = fleet.all_replies().await;
    let url = fleet.server.url();
    let run = |name: &str| {
        let args = format!("--model faulty --threads 2 --slots 4 --name {name} {args}");
        Program::run_limited(&url, &args, 900)
    };
    let mut first = run("w1");
    fleet.publish("faulty", "slow", image(SLOW_PX)).await;
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].in_flight == 1)
        .await;
    fleet.publish("faulty", "bad", image(width)).await;
    for index in 0..8 {
        fleet
            .publish("faulty", &format!("n{index}"), image(9))
            .await;
    }
    assert_ne!(first.exit_code().await, Some(0), "{}", first.log());
    let mut second = run("w2");
    let results = replies.results(10).await;
    fleet.until_idle().await;
    assert_eq!(results.len(), 10);
    for result in results {
        let attempt = result.attempt.expect("a worker's");
        if result.id.as_str() == "bad" {
            assert!(ending(&result).contains(expected), "{}", ending(&result));
            assert_eq!(attempt, 2);
        } else {
            assert_eq!(ending(&result), "ok 1", "{}", result.id);
            assert!(attempt <= 2, "{}: attempt {attempt}", result.id);
        }
    }
    let letters = fleet.dead_letters().await;
    let [letter] = &letters[..] else {
        panic!("{} dead letters", letters.len());
    };
    assert_eq!(letter.payload, image(width).payload);
    assert_eq!(letter.headers["Segment-Dead-Worker"], "w2");
    assert!(second.runs(), "{}", second.log());
}

#[tokio::test]
async fn an_image_that_aborts_costs_one_worker() {
    one_worker_is_lost(
        ABORTS_PX,
        "",
        "crashed: the child process ended with signal: 6",
    )
    .await;
}

#[tokio::test]
async fn an_image_that_never_ends_costs_one_worker() {
    let expected = "run_time_exceeded: the job ran longer than 5s in a child process";
    one_worker_is_lost(NEVER_ENDS_PX, "--max-run-time 5s", expected).await;
}

/// The incident: each attempt takes all memory and with it the worker, until all attempts and all workers are gone.
#[tokio::test]
async fn an_image_that_eats_all_memory_costs_one_worker() {
    one_worker_is_lost(EATS_MEMORY_PX, "", OUT_OF_MEMORY).await;
}

/// Jobs, how they end, and at which attempt.
fn jobs_of_a_child() -> [(&'static str, JobMessage, &'static str, u32); 9] {
    let too_wide = JobMessage::image(&png(10_002, 1));
    let too_much = JobMessage::image(&png(8000, 8000));
    let (width, need) = (
        "image_too_large: the image is 10002x1 px, the limit is 10001",
        "image_too_large: the image and its model may need 144777216 bytes, this worker has 67108864",
    );
    let (panicked, aborted) = (
        "crashed: the child process ended with exit status: 101: as the image wants",
        "crashed: the child process ended with signal: 6 (SIGABRT)",
    );
    let overran = "run_time_exceeded: the job ran longer than 2s";
    let failed = "model_failed: the model failed: as the image wants";
    [
        ("good", image(9), "ok 1", 1),
        ("empty", JobMessage::image(b""), "image_missing: ", 1),
        ("wide", too_wide, width, 1),
        ("much", too_much, need, 1),
        ("fails", image(FAILS_PX), failed, 2),
        ("panics", image(PANICS_PX), panicked, 1),
        ("aborts", image(ABORTS_PX), aborted, 1),
        ("eats", image(EATS_MEMORY_PX), OUT_OF_MEMORY, 1),
        ("hangs", image(NEVER_ENDS_PX), overran, 1),
    ]
}

#[tokio::test]
async fn what_a_child_does_is_told_from_what_an_image_is() {
    let fleet = Fleet::start(&["faulty"], retry_soon(2)).await;
    let config = Config {
        max_run_time: Duration::from_secs(2),
        job_memory_bytes: 64 << 20,
        ..isolated(&fleet, 10_001)
    };
    let worker = fleet.work_with(config);
    let mut replies = Vec::new();
    for (name, message, expected, attempt) in jobs_of_a_child() {
        let reply = fleet.submit("faulty", name, message).await;
        replies.push((reply, expected, attempt));
    }
    for (reply, expected, attempt) in replies {
        let result = reply.result().await;
        assert!(ending(&result).contains(expected), "{}", ending(&result));
        assert_eq!(result.attempt, Some(attempt), "{}", result.id);
    }
    fleet.until_idle().await;
    assert_eq!(fleet.dead_letters().await.len(), 5);
    assert!(worker.stop().await.is_good());
}

#[tokio::test]
async fn a_child_finds_what_a_thread_does() {
    let fleet = Fleet::start(&["faulty"], Settings::default()).await;
    let job = || {
        let file = encode(
            &image::DynamicImage::new_rgb8(60, 40),
            image::ImageFormat::Jpeg,
        );
        JobMessage::raw(file)
            .header("Content-Type", "image/jpeg")
            .header("Segment-Options", r#"{"forms":["polygons","coco_rle"]}"#)
    };
    // The square of this model depends on the job's id alone.
    let ask = async |worker: Worker| {
        let result = fleet.ask("faulty", "same", job()).await;
        fleet.until_idle().await;
        worker.stop().await;
        let purged = fleet
            .broker
            .jetstream()
            .get_stream("RESULTS")
            .await
            .expect("set up");
        purged.purge().await.expect("purged");
        result
    };
    let alone = ask(fleet.work_with(isolated(&fleet, 10_002))).await;
    let on_thread = ask(fleet.work("faulty")).await;
    let told = |result: JobResult| {
        assert!(matches!(&result.outcome, Outcome::Ok(objects) if objects.len() == 1));
        let stages: Vec<_> = result.timings.keys().copied().collect();
        (result.outcome, result.image, result.model, stages)
    };
    assert_eq!(told(alone), told(on_thread));
}

/// As a supervisor or the system does. Other signals may be ignored here: who starts tests in the background, or with
/// `nohup`, has their children ignore them.
#[tokio::test]
async fn a_child_stopped_from_outside_says_nothing_about_its_image() {
    let fleet = Fleet::start(&["faulty"], retry_soon(2)).await;
    let worker = fleet.work_with(isolated(&fleet, 10_003));
    for name in ["KILL", "TERM"] {
        let reply = fleet.submit("faulty", name, image(SLOW_PX)).await;
        let children = until_n_children(10_003, 1).await;
        signal(children[0], name);
        let result = reply.result().await;
        assert_eq!(
            (ending(&result).as_str(), result.attempt),
            ("ok 1", Some(2)),
            "{name}"
        );
    }
    assert!(fleet.dead_letters().await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_child_ends_with_its_deadline_its_drain_and_its_worker() {
    let fleet = Fleet::start(&["faulty"], retry_soon(5)).await;
    let config = Config {
        drain_timeout: Duration::ZERO,
        ..isolated(&fleet, 10_004)
    };
    let worker = fleet.work_with(config);
    let soon_over = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let soon_over = soon_over.format(&time::format_description::well_known::Rfc3339);
    let job = image(NEVER_ENDS_PX).header("Segment-Deadline", &soon_over.expect("a moment"));
    let late = fleet.submit("faulty", "late", job).await;
    until_n_children(10_004, 1).await;
    assert_eq!(ending(&late.result().await), "expired");
    until_n_children(10_004, 0).await;

    let endless = fleet
        .submit("faulty", "endless", image(NEVER_ENDS_PX))
        .await;
    until_n_children(10_004, 1).await;
    assert!(!worker.stop().await.drained);
    until_n_children(10_004, 0).await;

    let args = "--model faulty --isolate always --max-side-px 10005";
    let worker = Program::run(&fleet.server.url(), args);
    let child = until_n_children_of(worker.id(), 10_005, 1).await[0];
    worker.signal("KILL");
    // Whoever adopts it does not keep it.
    let gone = async {
        while Path::new(&format!("/proc/{child}/exe")).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the child's end", gone).await;
    drop(endless);
}

/// A program of the tests that stands in for the child, and is mad in the way its name says.
fn mad(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/mad")
        .join(name)
}

#[tokio::test]
async fn a_mad_child_costs_its_job_and_holds_nothing() {
    let fleet = Fleet::start(&["faulty"], retry_soon(2)).await;
    let cases = [
        (
            mad("nonsense"),
            "crashed: the child process' result cannot be used: ",
            1,
        ),
        (
            mad("mute"),
            "crashed: the child process did not end after its last word, and was killed",
            1,
        ),
        (
            mad("loud"),
            "crashed: the child process did not end after its last word, and was killed",
            1,
        ),
        (
            mad("orphan"),
            "run_time_exceeded: the job ran longer than 2s",
            1,
        ),
        (
            mad("greedy"),
            "image_too_large: the image and its model may need 18446744073709551615 bytes",
            1,
        ),
        (
            mad("slow"),
            "crashed: the child process was not ready within 2s",
            2,
        ),
        (
            PathBuf::from("/nowhere"),
            "crashed: a child process cannot be started: No such file",
            2,
        ),
    ];
    for (program, expected, attempt) in cases {
        let mut config = Config {
            max_run_time: Duration::from_secs(2),
            n_threads: 1,
            ..isolated(&fleet, 10_006)
        };
        let name = format!("j{}", program.file_name().expect("a name").display());
        config.isolation.program = program;
        let worker = fleet.work_with(config);
        let result = fleet.ask("faulty", &name, image(9)).await;
        assert!(
            ending(&result).contains(expected),
            "{name}: {}",
            ending(&result)
        );
        assert_eq!(result.attempt, Some(attempt), "{name}");
        // Slots, memory and turns are back: the drain is complete.
        assert!(worker.stop().await.is_good(), "{name}");
    }
    fleet.until_idle().await;
    assert_eq!(fleet.dead_letters().await.len(), 6);
}

/// A child that never ends holds what the others wait for, so they come after it.
async fn comes_after(width: u32, height: u32, n_threads: usize, side_px: u32) {
    let fleet = Fleet::start(&["faulty"], retry_soon(5)).await;
    let replies = fleet.all_replies().await;
    let config = Config {
        max_run_time: Duration::from_secs(4),
        job_memory_bytes: 128 << 20,
        n_threads,
        ..isolated(&fleet, side_px)
    };
    let worker = fleet.work_with(config);
    fleet
        .publish(
            "faulty",
            "first",
            JobMessage::image(&png(NEVER_ENDS_PX, height)),
        )
        .await;
    until_n_children(side_px, 1).await;
    // It has its memory and its turn before another child is there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    fleet
        .publish("faulty", "second", JobMessage::image(&png(width, height)))
        .await;
    let results = replies.results(2).await;
    let order: Vec<_> = results.iter().map(|result| result.id.as_str()).collect();
    assert_eq!(order, ["first", "second"]);
    assert_eq!(ending(&results[1]), "ok 1");
    worker.stop().await;
}

#[tokio::test]
async fn a_child_waits_for_its_turn() {
    comes_after(9, 2, 1, 10_007).await;
}

#[tokio::test]
async fn a_child_waits_for_its_memory() {
    // With its overhead each takes more than half of the budget.
    comes_after(100, 10_000, 2, 10_008).await;
}

/// Its memory is limited to what it asked for and an overhead, which together are more than the overhead alone.
#[tokio::test]
async fn a_child_has_the_memory_that_its_image_needs() {
    let fleet = Fleet::start(&["faulty"], retry_soon(5)).await;
    let config = Config {
        job_memory_bytes: 256 << 20,
        ..isolated(&fleet, 10_009)
    };
    let worker = fleet.work_with(config);
    let large = encode(
        &image::DynamicImage::new_rgb8(6000, 6000),
        image::ImageFormat::Png,
    );
    let result = fleet
        .ask("faulty", "large", JobMessage::image(&large))
        .await;
    assert_eq!(ending(&result), "ok 1");
    worker.stop().await;
}

/// No more children than can have work, and one to be ready.
#[tokio::test]
async fn children_are_few_however_many_slots_there_are() {
    let fleet = Fleet::start(&["faulty"], retry_soon(5)).await;
    let config = Config {
        n_threads: 1,
        n_slots: 16,
        ..isolated(&fleet, 10_010)
    };
    let worker = fleet.work_with(config);
    let replies = fleet.all_replies().await;
    for index in 0..4 {
        fleet
            .publish("faulty", &format!("j{index}"), image(SLOW_PX))
            .await;
    }
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].in_flight == 4)
        .await;
    until_n_children(10_010, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(children(std::process::id(), " --max-side-px 10010 ").len() <= 2);
    for result in replies.results(4).await {
        assert_eq!(ending(&result), "ok 1");
    }
    worker.stop().await;
}

/// Eight slots and images of which one needs almost the whole budget. A container has twice the budget; the peak of
/// all images together must stay below that, and is far above it without the budget.
#[tokio::test]
async fn large_images_share_the_memory() {
    const BUDGET_MIB: u64 = 256;
    let fleet = Fleet::start(&["mock"], retry_soon(5)).await;
    let replies = fleet.all_replies().await;
    let args = format!("--model mock --threads 8 --slots 8 --memory {BUDGET_MIB}MiB");
    let worker = Program::run(&fleet.server.url(), &args);
    // 108 MB of pixels, and room to decode them: 232 MB.
    let large = encode(
        &image::DynamicImage::new_rgb8(6000, 6000),
        image::ImageFormat::Png,
    );
    for index in 0..8 {
        fleet
            .publish("mock", &format!("j{index}"), JobMessage::image(&large))
            .await;
    }
    for result in replies.results(8).await {
        // Who waited for memory kept its lease, which is shorter than the wait.
        assert_eq!(
            (ending(&result).as_str(), result.attempt),
            ("ok 1", Some(1))
        );
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.id())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak
        .and_then(|peak| peak.trim().strip_suffix(" kB"))
        .expect("Linux");
    let peak_mib = peak.parse::<u64>().expect("a number") / 1024;
    assert!(peak_mib < 2 * BUDGET_MIB, "{peak_mib} MiB");
}

#[tokio::test]
async fn a_job_that_overruns_on_a_thread_ends_its_worker_and_no_neighbour() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let held = crate::models::Held::new();
    let config = Config {
        max_run_time: Duration::from_secs(1),
        ..fleet.config("test", held.clone())
    };
    let worker = fleet.work_with(config);
    let stuck = fleet
        .submit("test", "stuck", JobMessage::image(&png(2, 2)))
        .await;
    held.until_inside(1).await;
    let report = soon("its end", worker.ended()).await;
    assert!(report.overran && report.drained, "{report:?}");
    let next = fleet.work_with(fleet.config("test", crate::models::Unreliable::fails(0)));
    assert_eq!(stuck.result().await.attempt, Some(2));
    held.open();
    next.stop().await;
}

/// A thread is held by a job that nobody waits for any more: its deadline has passed.
#[tokio::test]
async fn a_thread_that_an_expired_job_holds_ends_its_worker() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let held = crate::models::Held::new();
    let config = Config {
        max_run_time: Duration::from_secs(2),
        ..fleet.config("test", held.clone())
    };
    let worker = fleet.work_with(config);
    let deadline = time::OffsetDateTime::now_utc() + Duration::from_secs(1);
    let deadline = deadline.format(&time::format_description::well_known::Rfc3339);
    let job =
        JobMessage::image(&png(2, 2)).header("Segment-Deadline", &deadline.expect("a moment"));
    let late = fleet.submit("test", "late", job).await;
    held.until_inside(1).await;
    assert_eq!(ending(&late.result().await), "expired");
    let report = soon("its end", worker.ended()).await;
    assert!(report.overran, "{report:?}");
    held.open();
}
