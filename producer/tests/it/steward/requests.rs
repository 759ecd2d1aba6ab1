//! What a steward does when it is asked.

use futures_util::FutureExt as _;
use segfleet_common::{subject::Tenant, trace::JobTrace};

use super::{raw::Raw, *};

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_what_is_not_answered() {
    let (mut fleet, broker) = start().await;
    let missing = fleet.segfleet(&["cancel", "j1"]);
    assert_eq!(missing.status.code(), Some(3));
    let expected = "no steward is running; start one: segfleet steward";
    assert!(stderr(&missing).contains(expected), "{}", stderr(&missing));
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    let mut replies = listen(&broker, "segment.replies.public.*").await;
    let mut stops = listen(&broker, "segment.stop.public.*").await;
    submit(&broker, &["j1", "j2"], &[("Accept", "application/json")]).await;
    let check = |args: &[&str], code: i32, words: &str| {
        let done = fleet.segfleet(&[&["cancel"], args].concat());
        let said = stdout(&done) + &stderr(&done);
        assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    };
    check(&["j1"], 0, "job j1 is cancelled");
    let reply = next(&mut replies).await;
    let result: Value = serde_json::from_slice(&reply.payload).expect("JSON");
    let job = "j1".parse().expect("a token");
    let expected = json!({
        "v": 1, "id": "j1", "tenant": "public", "status": "cancelled", "timings_ms": {}, "worker": "s1",
        "metadata": {"file": "horse.png"}, "trace_id": JobTrace::own(&Tenant::default(), &job).trace_id(),
    });
    assert_eq!(result, expected);
    assert_eq!(
        next(&mut stops).await.subject.as_str(),
        "segment.stop.public.j1"
    );
    assert_eq!(messages(&broker, "JOBS").await, 1);
    check(&["j1"], 0, "job j1 is cancelled");
    check(&["j1", "nobody"], 1, "job nobody is unknown");
    let answered =
        json!({"v": 1, "id": "j2", "tenant": "public", "status": "expired", "timings_ms": {}});
    store(&broker, "j2", &answered).await;
    next(&mut replies).await;
    check(&["j2"], 1, "job j2 is answered already: expired");
    check(&["j:2"], 2, "must be 1 to 64 characters");
    check(&["j2", "--tenant", "lab"], 3, "tenant lab is not set up");
    // What is answered stays in the queue, for a worker to find it so.
    assert_eq!(messages(&broker, "JOBS").await, 1);
    // One in work: whoever has it may settle it as if nothing had happened.
    submit(&broker, &["j3"], &[]).await;
    let in_work = [pull_one(&broker).await, pull_one(&broker).await];
    check(&["j3"], 0, "job j3 is cancelled");
    assert_eq!(
        next(&mut replies).await.subject.as_str(),
        "segment.replies.public.j3"
    );
    for job in in_work {
        job.double_ack().await.expect("taken");
    }
    assert_eq!(messages(&broker, "JOBS").await, 0);
    // A job sent again after it was cancelled is worked on, and its client hears nothing new.
    submit(&broker, &["j1"], &[]).await;
    fleet.start_worker("w1");
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(stored(&broker, "j1").await, expected);
    broker.client().flush().await.expect("connected");
    replies.unsubscribe().await.expect("connected");
    assert_eq!(replies.count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cancel_does_what_the_first_did_not_come_to() {
    let (fleet, broker) = start().await;
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    let mut stops = listen(&broker, "segment.stop.public.*").await;
    submit(&broker, &["j1"], &[]).await;
    let cancelled =
        json!({"v": 1, "id": "j1", "tenant": "public", "status": "cancelled", "timings_ms": {}});
    store(&broker, "j1", &cancelled).await;
    let done = fleet.segfleet(&["cancel", "j1"]);
    assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    assert_eq!(messages(&broker, "JOBS").await, 0);
    assert_eq!(
        next(&mut stops).await.subject.as_str(),
        "segment.stop.public.j1"
    );
}

/// Any replica answers a direct get, one that is behind too; here none does.
#[tokio::test(flavor = "multi_thread")]
async fn a_steward_reads_results_where_they_were_acknowledged() {
    let (fleet, broker) = start().await;
    let results = broker.jetstream().get_stream("RESULTS").await;
    let mut config = results.expect("set up").cached_info().config.clone();
    config.allow_direct = false;
    let changed = broker.jetstream().update_stream(config).await;
    changed.expect("changed");
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    for job in ["gone", "queued"] {
        let expired =
            json!({"v": 1, "id": job, "tenant": "public", "status": "expired", "timings_ms": {}});
        store(&broker, job, &expired).await;
    }
    submit(&broker, &["queued"], &[]).await;
    for job in ["gone", "queued"] {
        let done = fleet.segfleet(&["cancel", job]);
        let expected = format!("job {job} is answered already: expired");
        assert_eq!(stdout(&done).trim(), expected, "{}", stderr(&done));
    }
    give_up(&broker, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(messages(&broker, "DEAD").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_tell_of_the_queue_and_refuse_what_cannot_be() {
    let (fleet, broker) = start().await;
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    submit(&broker, &["j1", "j2"], &[]).await;
    let client = broker.client();
    let info = client.request("segment.info.public", "".into()).await;
    let info: Value = serde_json::from_slice(&info.expect("an answer").payload).expect("JSON");
    let expected = json!({"v": 1, "tenant": "public", "models": [
        {"model": "mock", "queued": 0, "running": 0, "redelivered": 0, "idle_slots": 0,
         "workers": 0, "slots": 0, "versions": []},
        {"model": "threshold", "queued": 2, "running": 0, "redelivered": 0, "idle_slots": 0,
         "workers": 0, "slots": 0, "versions": []},
    ]});
    assert_eq!(info, expected);
    let refusals = [
        ("segment.info.lab", "404", "tenant lab is not set up"),
        (
            "segment.info.l:ab",
            "400",
            "tenant \"l:ab\" must be 1 to 64 characters",
        ),
        (
            "segment.cancel.public.j:1",
            "400",
            "job id \"j:1\" must be 1 to 64 characters",
        ),
    ];
    for (subject, code, words) in refusals {
        let reply = client.request(subject, "".into()).await.expect("an answer");
        let headers = reply.headers.expect("headers");
        let header = |name| {
            headers
                .get(name)
                .map_or("", async_nats::HeaderValue::as_str)
        };
        assert_eq!(header("Nats-Service-Error-Code"), code, "{subject}");
        let error = header("Nats-Service-Error");
        assert!(error.contains(words), "{subject}: {error}");
    }
    // A request that breaks the connection it comes on is answered by nobody, and the next one is.
    let mut raw = Raw::connect(&fleet);
    raw.send(b"HPUB segment.cancel.public.j1 raw 22 22\r\nNATS/1.0\r\nno colon\r\n\r\n\r\n");
    steward.until_says("lost the broker").await;
    let cancel = async || fleet.segfleet(&["cancel", "j1", "--timeout", "1s"]);
    until("cancelled", async || cancel().await.status.success()).await;
    let ping = client
        .request("$SRV.PING.segfleet-steward", "".into())
        .await;
    let ping: Value = serde_json::from_slice(&ping.expect("an answer").payload).expect("JSON");
    assert_eq!(ping["name"], "segfleet-steward");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_is_dropped_and_not_kept() {
    const N_REQUESTS: usize = 30_000;
    let (fleet, broker) = start().await;
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    let client = broker.client();
    let inbox = client.new_inbox();
    for _ in 0..N_REQUESTS {
        let sent = client.publish_with_reply("segment.info.public", inbox.clone(), "".into());
        sent.await.expect("connected");
    }
    steward
        .until_says("messages come faster than they are taken")
        .await;
    let asked = async || client.request("segment.info.public", "".into()).await;
    until("answered", async || asked().await.is_ok()).await;
    let log = steward.log();
    assert!(log.matches("come faster").count() < 20, "{log}");
}

/// Cancels meet workers that are just about to finish. Whoever is first, there is one result, and what the steward
/// said of it is true.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_meets_a_finishing_worker_agrees_with_the_result() {
    const N_JOBS: u64 = 100;
    let (mut fleet, broker) = start().await;
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    fleet.start_worker("w1");
    fleet.until_asking("threshold", 1);
    let mut replies = listen(&broker, "segment.replies.public.*").await;
    let mut said = Vec::new();
    for index in 0..N_JOBS {
        let job = format!("j{index}");
        submit(&broker, &[&job], &[]).await;
        // From before the job has been taken to after it has been answered.
        tokio::time::sleep(Duration::from_micros(index * 200)).await;
        let subject = format!("segment.cancel.public.{job}");
        let answer = broker.client().request(subject, "".into()).await;
        let answer: Value =
            serde_json::from_slice(&answer.expect("a steward").payload).expect("JSON");
        said.push((job, answer["status"].clone()));
    }
    until_messages(&broker, "JOBS", 0).await;
    for (job, status) in said {
        assert_eq!(stored(&broker, &job).await["status"], status, "{job}");
    }
    for _ in 0..N_JOBS {
        next(&mut replies).await;
    }
    broker.client().flush().await.expect("connected");
    assert!(replies.next().now_or_never().is_none(), "a second result");
    assert_eq!(messages(&broker, "DEAD").await, 0);
}
