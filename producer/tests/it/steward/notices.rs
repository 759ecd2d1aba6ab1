//! What a notice of the broker, or what looks like one, has a steward do, and what not.

use async_nats::jetstream::{
    consumer::{Consumer, pull::Config as PullConfig},
    stream::{Config as StreamConfig, Source},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{raw::Raw, *};

/// Sends what the broker would if it had given up on this job now.
async fn forge(broker: &Broker, stream: &str, consumer: &str, sequence: u64, at: OffsetDateTime) {
    let notice = json!({
        "type": "io.nats.jetstream.advisory.v1.max_deliver", "id": "x", "deliveries": 6, "stream": stream,
        "consumer": consumer, "stream_seq": sequence, "timestamp": at.format(&Rfc3339).expect("a moment"),
    });
    let subject = format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}");
    let sent = broker
        .client()
        .publish(subject, notice.to_string().into())
        .await;
    sent.expect("connected");
}

/// Waits until the stewards have settled so many notices.
async fn until_settled(broker: &Broker, n_notices: u64) {
    until_messages(broker, "ADVISORIES", n_notices).await;
    let stream = broker.jetstream().get_stream("ADVISORIES").await;
    let stream = stream.expect("set up");
    until("all notices are settled", async || {
        let info = stream.consumer_info("janitor").await.expect("set up");
        info.num_pending == 0 && info.num_ack_pending == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_does_not_fit_what_is_there_ends_nothing() {
    let (fleet, broker) = start().await;
    submit(&broker, &["old"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "ADVISORIES", 1).await;
    let jetstream = broker.jetstream();
    jetstream.delete_stream("JOBS").await.expect("deleted");
    let before_set_up = OffsetDateTime::now_utc();
    set_up(&fleet, &["--ack-wait", "60s"]);
    let before_submit = OffsetDateTime::now_utc();
    submit(&broker, &["fresh"], &[]).await;
    let in_work = pull_one(&broker).await;
    assert_eq!(in_work.info().expect("a job").stream_sequence, 1);
    submit(&broker, &["waits"], &[]).await;
    let now = OffsetDateTime::now_utc();
    for (consumer, sequence, at) in [
        ("normal-threshold", 1, before_set_up),
        ("normal-threshold", 1, before_submit),
        ("normal-threshold", 2, now),
        ("normal-mock", 1, now),
        ("normal-nobody", 1, now),
        ("mine", 1, now),
    ] {
        forge(&broker, "JOBS", consumer, sequence, at).await;
    }
    let steward = Steward::start(&fleet, "s1");
    until_settled(&broker, 7).await;
    for (stream, expected) in [("JOBS", 2), ("RESULTS", 0), ("DEAD", 0)] {
        assert_eq!(
            messages(&broker, stream).await,
            expected,
            "{stream}: {}",
            steward.log()
        );
    }
}

/// Makes a stream that is somebody else's, with a consumer that hands out each of its messages once.
async fn create(
    broker: &Broker,
    name: &str,
    subjects: &[&str],
    sources: Option<Vec<Source>>,
) -> Consumer<PullConfig> {
    let config = StreamConfig {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        sources,
        ..StreamConfig::default()
    };
    let stream = broker.jetstream().create_stream(config).await;
    let consumer = PullConfig {
        durable_name: Some("normal-threshold".to_owned()),
        max_deliver: 1,
        ..PullConfig::default()
    };
    let created = stream.expect("created").create_consumer(consumer).await;
    created.expect("created")
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_with_names_like_ours_are_left_alone() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--ack-wait", "60s"]);
    let jetstream = broker.jetstream();
    submit(&broker, &["alive"], &[]).await;
    let _in_work = pull_one(&broker).await;
    let source = Source {
        name: "JOBS".to_owned(),
        ..Source::default()
    };
    create(&broker, "RESULTS-billing", &["receipts.>"], None).await;
    let set = jetstream.get_stream("RESULTS-billing").await;
    let mut config = set.expect("there").cached_info().config.clone();
    let key = "segfleet.results-max-messages".to_owned();
    config.metadata.insert(key, "0".to_owned());
    jetstream.update_stream(config).await.expect("changed");
    let copies = create(&broker, "JOBS-archive", &[], Some(vec![source])).await;
    let invoices = create(&broker, "JOBS-billing", &["invoices.>"], None).await;
    for subject in ["invoices.1", "receipts.1"] {
        let sent = jetstream.publish(subject, "a million".into()).await;
        sent.expect("sent").await.expect("stored");
    }
    until_messages(&broker, "JOBS-archive", 1).await;
    for (stream, consumer) in [("JOBS-archive", copies), ("JOBS-billing", invoices)] {
        let batch = consumer.fetch().max_messages(1).messages().await;
        let message = batch.expect("a pull").next().await.expect("a message");
        let message = message.expect("a message");
        let nak = message.double_ack_with(AckKind::Nak(None)).await;
        nak.expect("given back");
        let nudged = broker.nudge(stream, "normal-threshold", 0).await;
        nudged.expect("sent");
    }
    let steward = Steward::start(&fleet, "s1");
    until_settled(&broker, 2).await;
    for name in ["JOBS-archive", "JOBS-billing"] {
        let words = format!("{name} has a name of ours and not our shape");
        steward.until_says(&words).await;
    }
    // The looks after that find nothing to do either.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for stream in ["JOBS", "JOBS-archive", "JOBS-billing", "RESULTS-billing"] {
        assert_eq!(
            messages(&broker, stream).await,
            1,
            "{stream}: {}",
            steward.log()
        );
    }
    for stream in ["RESULTS", "DEAD"] {
        assert_eq!(messages(&broker, stream).await, 0, "{stream}");
    }
    assert_eq!(steward.log().matches("not our shape").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_without_room_keeps_back_no_other() {
    const N_NOTICES: u64 = 1200;
    let (fleet, broker) = start().await;
    set_up(
        &fleet,
        &["--results-max-bytes", "2000", "--ack-wait", "60s"],
    );
    set_up(
        &fleet,
        &["--tenant", "lab", "--attempts", "1", "--ack-wait", "60s"],
    );
    let filler = Message {
        headers: HeaderMap::new(),
        payload: vec![0; 1800].into(),
    };
    let subject = "segment.results.public.filler".to_owned();
    broker.publish_first(subject, filler).await.expect("taken");
    submit(&broker, &["j1"], &[]).await;
    let _in_work = pull_one(&broker).await;
    for _ in 0..N_NOTICES {
        let now = OffsetDateTime::now_utc();
        forge(&broker, "JOBS", "normal-threshold", 1, now).await;
    }
    until_messages(&broker, "ADVISORIES", N_NOTICES).await;
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says("cannot be ended yet: the stream is full")
        .await;
    let consumer = broker
        .jetstream()
        .get_consumer_from_stream::<pull::Config, _, _>("normal-threshold", "JOBS-lab")
        .await
        .expect("set up");
    let message = || Message {
        headers: HeaderMap::new(),
        payload: payload().into(),
    };
    for job in ["given-up", "in-work"] {
        let subject = format!("segment.jobs.lab.threshold.{job}");
        let published = broker.publish_first(subject, message()).await;
        published.expect("taken");
        let batch = consumer.fetch().max_messages(1).messages().await;
        let job = batch.expect("a pull").next().await.expect("a job");
        job.expect("a job");
    }
    let now = OffsetDateTime::now_utc();
    forge(&broker, "JOBS-lab", "normal-threshold", 1, now).await;
    until_messages(&broker, "RESULTS-lab", 1).await;
    let log = steward.log();
    assert_eq!(log.matches("cannot be ended yet").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_cannot_be_parsed_breaks_only_its_own_connection() {
    let (fleet, broker) = start().await;
    let mut raw = Raw::connect(&fleet);
    raw.send(
        b"HPUB $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS.normal-threshold 22 22\r\n\
        NATS/1.0\r\nno colon\r\n\r\n\r\n",
    );
    until_messages(&broker, "ADVISORIES", 1).await;
    submit(&broker, &["j1"], &[]).await;
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says(r#"lost the broker; reconnecting connection="s1 notices""#)
        .await;
    give_up(&broker, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    let log = steward.log();
    assert!(!log.contains(r#"connection="s1""#), "{log}");
}
