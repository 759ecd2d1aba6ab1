//! Set-up is idempotent, says what it changes, and a worker's check finds what it would change.

use std::time::Duration;

use async_nats::jetstream::consumer::{FromConsumer as _, pull};
use segfleet_common::{
    broker::{BindError, Broker, ConnectArgs, Settings, Setup, StreamsError},
    limits,
    subject::{ModelName, Tenant},
};

use crate::server::Server;

struct Operator {
    broker: Broker,
    tenant: Tenant,
}

impl Operator {
    async fn connect(server: &Server) -> Self {
        let broker = Broker::connect(&ConnectArgs::plain(server.url()), "test")
            .await
            .expect("a broker");
        Self {
            broker,
            tenant: "lab".parse().expect("a token"),
        }
    }

    async fn set_up(
        &self,
        models: &[&str],
        settings: Settings,
    ) -> Result<Vec<String>, StreamsError> {
        let models: Vec<ModelName> = models
            .iter()
            .map(|name| name.parse().expect("a token"))
            .collect();
        let Self { broker, tenant } = self;
        let changes = Setup {
            broker,
            tenant,
            models: &models,
            settings: &settings,
        }
        .run()
        .await?;
        Ok(changes.iter().map(ToString::to_string).collect())
    }

    async fn bind(&self, model: &str) -> Result<(Duration, u32), BindError> {
        let bound = self
            .broker
            .bind(&self.tenant, &model.parse().expect("a token"))
            .await?;
        Ok((bound.ack_wait, bound.attempts))
    }
}

#[tokio::test]
async fn run_again_it_changes_what_changed_and_says_so() {
    let server = Server::start();
    let operator = Operator::connect(&server).await;
    let created = operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    let expected = [
        "created  OBJ_models",
        "created  ADVISORIES",
        "created  ADVISORIES janitor",
        "created  DEAD",
        "created  BLOBS-lab",
        "created  RESULTS-lab",
        "created  JOBS-lab",
        "created  JOBS-lab normal-mock",
    ];
    assert_eq!(created, expected);
    let again = operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    assert!(
        again.iter().all(|line| line.starts_with("kept ")),
        "{again:?}"
    );
    let settings = Settings {
        ack_wait: Some(Duration::from_secs(60)),
        attempts: Some(3),
        results_max_age: Some(Duration::from_secs(3600)),
        results_max_messages: Some(500),
        jobs_max_messages: Some(10),
        ..Settings::default()
    };
    let changed = operator
        .set_up(&["mock", "u2"], settings)
        .await
        .expect("set up");
    let changed: Vec<_> = changed
        .iter()
        .filter(|line| !line.starts_with("kept "))
        .collect();
    let expected = [
        "changed  RESULTS-lab: max_age 1d -> 1h, segfleet.results-max-messages unset -> \"500\"",
        "changed  JOBS-lab: max_msgs 1000000 -> 10, subjects +\"segment.jobs.lab.u2.*\"",
        "changed  JOBS-lab normal-mock: ack_wait 30s -> 1m, max_deliver 10 -> 8",
        "created  JOBS-lab normal-u2",
    ];
    assert_eq!(changed, expected);
    let bound = operator.bind("u2").await.expect("set up");
    assert_eq!(bound, (Duration::from_secs(60), 3));
}

#[tokio::test]
async fn what_is_not_said_is_kept() {
    let server = Server::start();
    let operator = Operator::connect(&server).await;
    let settings = Settings {
        attempts: Some(3),
        jobs_max_messages: Some(10),
        results_max_messages: Some(500),
        ..Settings::default()
    };
    operator
        .set_up(&["mock", "u2"], settings)
        .await
        .expect("set up");
    let kept = operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    assert!(
        kept.iter().all(|line| line.starts_with("kept ")),
        "{kept:?}"
    );
    let models = operator
        .broker
        .models(&operator.tenant)
        .await
        .expect("asked")
        .expect("set up");
    assert_eq!(
        models.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["mock", "u2"]
    );
}

#[tokio::test]
async fn a_worker_says_what_is_missing_or_has_drifted() {
    let server = Server::start();
    let operator = Operator::connect(&server).await;
    let missing = operator
        .bind("mock")
        .await
        .expect_err("nothing is there")
        .to_string();
    assert_eq!(
        missing,
        "RESULTS-lab is not set up; run: segfleet setup --tenant lab --model mock"
    );
    operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    let missing = operator
        .bind("u2")
        .await
        .expect_err("another model")
        .to_string();
    assert_eq!(
        missing,
        "JOBS-lab normal-u2 is not set up; run: segfleet setup --tenant lab --model u2"
    );
    assert_eq!(
        operator.bind("mock").await.expect("set up"),
        (limits::ACK_WAIT, limits::ATTEMPTS)
    );

    let jetstream = operator.broker.jetstream();
    let mut config = jetstream
        .get_stream("RESULTS-lab")
        .await
        .expect("there")
        .cached_info()
        .config
        .clone();
    config.discard_new_per_subject = false;
    config.max_messages_per_subject = 5;
    jetstream
        .update_stream(config)
        .await
        .expect("anybody may break it");
    let drifted = operator
        .bind("mock")
        .await
        .expect_err("results would be replaced")
        .to_string();
    let expected = "RESULTS-lab has drifted (discard_new_per_subject unset -> true, max_msgs_per_subject 5 -> 1); \
        run: segfleet setup --tenant lab --model mock";
    assert_eq!(drifted, expected);
    operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("mended");
    operator.bind("mock").await.expect("as it should be");
}

#[tokio::test]
async fn a_steward_says_what_is_missing_or_has_drifted() {
    let server = Server::start();
    let operator = Operator::connect(&server).await;
    let Operator { broker, .. } = &operator;
    let problem = async || {
        let bound = broker.notices().await;
        bound.err().map(|error| error.to_string())
    };
    let missing = "ADVISORIES is not set up; run: segfleet setup";
    assert_eq!(problem().await.as_deref(), Some(missing));
    operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    assert_eq!(problem().await, None);
    let stream = broker.jetstream().get_stream("ADVISORIES").await;
    let stream = stream.expect("there");
    let mut config = stream.consumer_info("janitor").await.expect("there").config;
    config.ack_wait = Duration::from_secs(1);
    config.max_ack_pending = 1000;
    config.max_deliver = -1;
    let config = pull::Config::try_from_consumer_config(config).expect("a pull consumer");
    stream
        .update_consumer(config)
        .await
        .expect("anybody may break it");
    let drifted = "ADVISORIES janitor has drifted \
        (ack_wait 1s -> 30s, max_ack_pending 1000 -> -1, max_deliver -1 -> 1000); run: segfleet setup";
    assert_eq!(problem().await.as_deref(), Some(drifted));
    operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("mended");
    assert_eq!(problem().await, None);
    stream
        .delete_consumer("janitor")
        .await
        .expect("anybody may");
    let missing = "ADVISORIES janitor is not set up; run: segfleet setup";
    assert_eq!(problem().await.as_deref(), Some(missing));
    let mended = operator
        .set_up(&["mock"], Settings::default())
        .await
        .expect("set up");
    assert!(mended.contains(&"created  ADVISORIES janitor".to_owned()));
    assert_eq!(problem().await, None);
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let server = Server::start();
    let operator = Operator::connect(&server).await;
    let settings = Settings {
        jobs_max_bytes: Some(1 << 50),
        ..Settings::default()
    };
    let refused = operator
        .set_up(&["mock"], settings)
        .await
        .expect_err("a petabyte")
        .to_string();
    assert!(
        refused.starts_with("JOBS-lab cannot be read or changed: "),
        "{refused}"
    );
    assert!(
        refused.ends_with("lower the max-bytes options or give it more"),
        "{refused}"
    );
    let settings = Settings {
        replicas: Some(3),
        ..Settings::default()
    };
    let refused = operator
        .set_up(&["mock"], settings)
        .await
        .expect_err("one server")
        .to_string();
    assert!(
        refused.contains("--replicas 3 needs a cluster of three servers"),
        "{refused}"
    );
    assert!(matches!(
        operator
            .set_up(&["mock"], Settings::default())
            .await
            .as_deref(),
        Ok([_, ..])
    ));
}
