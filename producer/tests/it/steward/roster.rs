//! Who serves a model: what operators, the broker's own tools and waiting clients are told.

use crate::fleet::client;

use super::*;

const LINE: &str = "w1                                              2  mock@0.1.0 threshold@0.1.0";

#[test]
fn workers_are_listed_while_they_are_there() {
    let mut fleet = Fleet::start();
    let listed = |fleet: &Fleet| stdout(&fleet.segfleet(&["status"]));
    assert!(
        listed(&fleet).ends_with("MODELS\nnone\n"),
        "{}",
        listed(&fleet)
    );
    fleet.start_worker("w1");
    fleet.until_asking("mock", 1);
    assert!(listed(&fleet).contains(LINE), "{}", listed(&fleet));
    assert_eq!(fleet.stop_workers(), [Some(0)]);
    assert!(!listed(&fleet).contains("w1"), "{}", listed(&fleet));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_that_nobody_serves_and_who_could_say_so() {
    let mut fleet = Fleet::start();
    let horse = sample("horse.png");
    let wait = |fleet: &Fleet| {
        let done = fleet.segfleet(&["submit", "--model", "mock", "--timeout", "7s", &horse]);
        assert_eq!(done.status.code(), Some(1));
        stderr(&done)
    };
    let said = wait(&fleet);
    assert!(
        said.contains("still waiting for model mock; no steward is running"),
        "{said}"
    );
    let steward = Steward::start(&fleet, "s1");
    steward.until_says("listening for").await;
    let said = wait(&fleet);
    let words = "still waiting; no worker serves model mock (segfleet-worker run --model mock); 2 queued, 0 in work";
    assert!(said.contains(words), "{said}");
    fleet.start_worker("w1");
    fleet.until_asking("mock", 1);
    until("the worker is known", async || {
        let info = fleet_info(&fleet).await;
        info["models"][0]["workers"] == 1
    })
    .await;
    let mock = &fleet_info(&fleet).await["models"][0];
    assert_eq!(
        (&mock["slots"], &mock["versions"]),
        (&2.into(), &json!(["0.1.0"]))
    );
    assert_eq!(steward.stop(), Some(0));
}

async fn fleet_info(fleet: &Fleet) -> Value {
    let broker = Broker::connect(&ConnectArgs::plain(fleet.server.url()), "test").await;
    let broker = broker.expect("a broker");
    let info = broker
        .client()
        .request("segment.info.public", "".into())
        .await;
    serde_json::from_slice(&info.expect("an answer").payload).expect("JSON")
}

#[test]
#[ignore = "needs the nats command: deploy/test runs it"]
fn clients_the_nats_command_lists_workers() {
    let mut fleet = Fleet::start();
    fleet.start_worker("w1");
    fleet.until_asking("mock", 1);
    let nats = |args: &[&str]| {
        let mut command = Command::new(client("find-nats"));
        clean(&mut command)
            .args(args)
            .env("NATS_URL", fleet.server.url());
        stdout(&command.output().expect("nats runs"))
    };
    let listed = nats(&["micro", "ls"]);
    assert!(listed.contains("segfleet-worker"), "{listed}");
    let info = nats(&["micro", "info", "segfleet-worker"]);
    assert!(info.contains("mock@0.1.0,threshold@0.1.0"), "{info}");
}
