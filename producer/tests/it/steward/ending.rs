//! Jobs that the broker gave up on get their end, whatever was done before and whatever is in the way.

use super::{raw::Raw, *};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_last_lease_ends_is_ended_without_any_worker() {
    let (fleet, broker) = start().await;
    let mut replies = listen(&broker, "segment.replies.public.j1").await;
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    let entries = [
        ("Accept", "application/json"),
        ("traceparent", traceparent.as_str()),
        ("Mine", "kept"),
    ];
    submit(&broker, &["j1"], &entries).await;
    spend(&broker, 1, 1).await;
    let steward = Steward::start(&fleet, "s1");
    let reply = next(&mut replies).await;
    let headers = reply.headers.expect("headers");
    let content_type = headers
        .get("Content-Type")
        .map(async_nats::HeaderValue::as_str);
    assert_eq!(content_type, Some("application/json"));
    let mut result: Value = serde_json::from_slice(&reply.payload).expect("JSON");
    let message = result["error"]["message"].take();
    assert!(
        message
            .as_str()
            .is_some_and(|text| text.starts_with("none of 1 attempts")),
        "{message}"
    );
    let expected = json!({
        "v": 1, "id": "j1", "tenant": "public", "status": "error", "timings_ms": {}, "attempt": 6, "worker": "s1",
        "error": {"code": "attempts_exhausted", "message": null}, "trace_id": trace_id,
        "metadata": {"file": "horse.png"},
    });
    assert_eq!(result, expected);
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "attempts_exhausted");
    let letter = broker.dead_payload(&letters[0]).await.expect("kept");
    assert_eq!(letter.payload, payload());
    for (name, value) in [
        ("Mine", "kept"),
        ("Segment-Dead-Attempts", "6"),
        ("Segment-Dead-Worker", "s1"),
        ("Segment-Dead-Subject", "segment.jobs.public.threshold.j1"),
    ] {
        let found = letter
            .headers
            .get(name)
            .map(async_nats::HeaderValue::as_str);
        assert_eq!(found, Some(value), "{name}");
    }
    assert_eq!(steward.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_attempts_left_keeps_them_and_holds_up_no_other() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--ack-wait", "2s"]);
    submit(&broker, &["left"], &[]).await;
    let mut left = pull_one(&broker).await;
    submit(&broker, &["spent"], &[]).await;
    loop {
        let job = pull_one(&broker).await;
        if job.subject == left.subject {
            left = job;
        } else if job.info().expect("a job").delivered < 6 {
            let nak = job.double_ack_with(AckKind::Nak(None)).await;
            nak.expect("given back");
        } else {
            break;
        }
    }
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 1).await;
    assert_eq!(
        stored(&broker, "spent").await["error"]["code"],
        "attempts_exhausted"
    );
    let again = pull_one(&broker).await;
    assert_eq!(again.subject, left.subject);
    let deliveries = |job: &jetstream::Message| job.info().expect("a job").delivered;
    assert_eq!(deliveries(&again), deliveries(&left) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_with_attempts_left_hide_no_spent_one() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--attempts", "5", "--ack-wait", "3s"]);
    let names: Vec<String> = (0..20).map(|n| format!("left{n}")).collect();
    let left: Vec<&str> = names.iter().map(String::as_str).collect();
    submit(&broker, &left, &[]).await;
    for _ in &left {
        pull_one(&broker).await;
    }
    submit(&broker, &["spent"], &[]).await;
    loop {
        let job = pull_one(&broker).await;
        if !job.subject.ends_with(".spent") {
            continue;
        }
        if job.info().expect("a job").delivered == 10 {
            break;
        }
        let nak = job.double_ack_with(AckKind::Nak(None)).await;
        nak.expect("given back");
    }
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 20).await;
    assert_eq!(
        stored(&broker, "spent").await["error"]["code"],
        "attempts_exhausted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_job_leaves_a_dead_letter() {
    let (fleet, broker) = start().await;
    let n_bytes = broker.inline_limit_bytes() - 1024;
    let message = Message {
        headers: headers(&[("Mine", &"x".repeat(900)), ("Content-Type", "image/png")]),
        payload: vec![7; n_bytes].into(),
    };
    let subject = "segment.jobs.public.threshold.j1".to_owned();
    broker.publish_first(subject, message).await.expect("taken");
    give_up(&broker, 1).await;
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    let letter = broker.dead_payload(&letters[0]).await.expect("kept");
    assert_eq!(letter.payload.len(), n_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_ended_though_no_notice_tells_of_them() {
    let (fleet, broker) = start().await;
    submit(&broker, &["j1", "j2"], &[]).await;
    give_up(&broker, 2).await;
    until_messages(&broker, "ADVISORIES", 2).await;
    let advisories = broker.jetstream().get_stream("ADVISORIES").await;
    let purged = advisories.expect("set up").purge().await;
    purged.expect("purged");
    submit(&broker, &["later"], &[]).await;
    let status = stdout(&fleet.segfleet(&["status"]));
    let line = status
        .lines()
        .find(|line| line.contains(" normal-threshold "));
    let columns: Vec<&str> = line.expect("its line").split_whitespace().collect();
    assert_eq!(columns[2..], ["1", "0", "2", "2", "0"], "{status}");
    let steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 1).await;
    for job in ["j1", "j2"] {
        assert_eq!(
            stored(&broker, job).await["error"]["code"],
            "attempts_exhausted"
        );
    }
    assert_eq!(dead_letters(&broker).await.len(), 2);
    assert!(
        steward.log().contains("no notice of them was read"),
        "{}",
        steward.log()
    );
    // The one with attempts left is still for workers.
    let job = "later".parse().expect("a token");
    let later = broker.queued_job(&Tenant::default(), &job).await;
    assert!(later.expect("asked").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_of_a_busy_model_are_told_of_and_ended_when_it_is_idle() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--ack-wait", "60s"]);
    submit(&broker, &["orphan"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "ADVISORIES", 1).await;
    let advisories = broker.jetstream().get_stream("ADVISORIES").await;
    let purged = advisories.expect("set up").purge().await;
    purged.expect("purged");
    submit(&broker, &["in-work"], &[]).await;
    let in_work = pull_one(&broker).await;
    let steward = Steward::start(&fleet, "s1");
    let words = "while others of their model are in work they cannot be told from those";
    steward.until_says(words).await;
    assert_eq!(messages(&broker, "JOBS").await, 2);
    assert_eq!(messages(&broker, "RESULTS").await, 0);
    in_work.double_ack().await.expect("taken");
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(
        stored(&broker, "orphan").await["error"]["code"],
        "attempts_exhausted"
    );
    assert_eq!(steward.log().matches(words).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_no_client_can_receive_get_their_answer() {
    let (fleet, broker) = start().await;
    let mut raw = Raw::connect(&fleet);
    let cases: [(&str, &[u8]); 3] = [
        (
            "colon",
            b"NATS/1.0\r\nAccept: application/json\r\nno colon\r\n\r\n",
        ),
        (
            "latin",
            b"NATS/1.0\r\nAccept: application/json\r\nName: caf\xe9\r\n\r\n",
        ),
        (
            "version",
            b"HTTP/1.1 200\r\nAccept: application/json\r\n\r\n",
        ),
    ];
    for (job, headers) in cases {
        raw.publish_job(job.as_bytes(), headers, &payload());
        (0..6).for_each(|_| raw.pull_and_nak());
    }
    raw.publish_job(b"caf\xe9", b"NATS/1.0\r\n\r\n", &payload());
    (0..6).for_each(|_| raw.pull_and_nak());
    broker
        .nudge("JOBS", "normal-threshold", 0)
        .await
        .expect("sent");
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    for (job, _) in cases {
        let parsed = job.parse().expect("a token");
        let result = broker.stored_result(&Tenant::default(), &parsed).await;
        let result = result.expect("asked").expect("a result");
        assert_eq!(result.content_type(), Some("application/json"), "{job}");
        let result = stored(&broker, job).await;
        assert_eq!(result["error"]["code"], "attempts_exhausted");
        assert_eq!(result["metadata"]["file"], "horse.png");
    }
    let letters = dead_letters(&broker).await;
    let ids: Vec<&str> = letters
        .iter()
        .map(|letter| letter.job.job.as_str())
        .collect();
    assert_eq!(ids, ["caf\u{fffd}", "colon", "latin", "version"]);
    let letter = broker.dead_payload(&letters[2]).await.expect("kept");
    let name = letter
        .headers
        .get("Name")
        .map(async_nats::HeaderValue::as_str);
    assert_eq!(name, Some("caf\u{fffd}"));
    assert_eq!(letter.payload, payload());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_began_is_brought_to_its_end() {
    let (fleet, broker) = start().await;
    let jobs = ["answered", "buried", "finished"];
    submit(&broker, &jobs, &[]).await;
    give_up(&broker, 3).await;
    let error = |job: &str| {
        json!({
            "v": 1, "id": job, "tenant": "public", "status": "error", "timings_ms": {}, "worker": "w0",
            "error": {"code": "crashed", "message": "it crashed"},
        })
    };
    let results = [
        error("answered"),
        error("buried"),
        json!({"v": 1, "id": "finished", "tenant": "public", "status": "expired", "timings_ms": {}}),
    ];
    for (job, result) in jobs.iter().zip(&results) {
        store(&broker, job, result).await;
    }
    let letter = Message {
        headers: headers(&[("Segment-Dead-Worker", "w0")]),
        payload: payload().into(),
    };
    let subject = "segment.dead.crashed.public.threshold.buried".to_owned();
    broker.publish_first(subject, letter).await.expect("taken");
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "JOBS", 0).await;
    let letters = dead_letters(&broker).await;
    let told: Vec<_> = letters
        .iter()
        .map(|letter| {
            let worker = letter.headers.get("Segment-Dead-Worker");
            let worker = worker.map(async_nats::HeaderValue::as_str);
            (letter.job.job.as_str(), letter.reason.as_str(), worker)
        })
        .collect();
    let expected = [
        ("answered", "crashed", Some("s1")),
        ("buried", "crashed", Some("w0")),
    ];
    assert_eq!(told, expected);
    for (job, result) in jobs.iter().zip(results) {
        assert_eq!(stored(&broker, job).await, result);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_results_have_no_room_the_notice_is_kept() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--results-max-bytes", "2000"]);
    let filler = Message {
        headers: HeaderMap::new(),
        payload: vec![0; 1800].into(),
    };
    let subject = "segment.results.public.filler".to_owned();
    broker.publish_first(subject, filler).await.expect("taken");
    submit(&broker, &["j1"], &[]).await;
    give_up(&broker, 1).await;
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says("cannot be ended yet: the stream is full")
        .await;
    assert_eq!(messages(&broker, "JOBS").await, 1);
    assert_eq!(dead_letters(&broker).await.len(), 0);
    set_up(&fleet, &["--results-max-bytes", "1MiB"]);
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(
        stored(&broker, "j1").await["error"]["code"],
        "attempts_exhausted"
    );
    assert_eq!(dead_letters(&broker).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stewards_end_each_job_once() {
    const N_JOBS: usize = 300;
    let (fleet, broker) = start().await;
    let mut replies = listen(&broker, "segment.replies.public.*").await;
    let names: Vec<String> = (0..N_JOBS).map(|n| format!("j{n}")).collect();
    let jobs: Vec<&str> = names.iter().map(String::as_str).collect();
    submit(&broker, &jobs, &[]).await;
    spend(&broker, N_JOBS, 0).await;
    let stewards = [Steward::start(&fleet, "s1"), Steward::start(&fleet, "s2")];
    for steward in &stewards {
        steward.until_says("listening for").await;
    }
    // Told of all at once, both are at it.
    let nudged = broker.nudge("JOBS", "normal-threshold", 0).await;
    nudged.expect("sent");
    until_messages(&broker, "JOBS", 0).await;
    for steward in &stewards {
        assert!(steward.log().contains("the job ended"), "{}", steward.log());
    }
    for stream in ["RESULTS", "DEAD"] {
        assert_eq!(messages(&broker, stream).await, 300, "{stream}");
    }
    assert_eq!(stewards.map(Steward::stop), [Some(0), Some(0)]);
    broker.client().flush().await.expect("connected");
    replies.unsubscribe().await.expect("connected");
    assert_eq!(replies.count().await, N_JOBS);
}
