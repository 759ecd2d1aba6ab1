//! A steward's own life, and what it keeps small.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn results_beyond_the_number_to_keep_are_deleted_the_oldest_first() {
    let (fleet, broker) = start().await;
    set_up(&fleet, &["--results-max-messages", "3"]);
    for job in ["j1", "j2", "j3", "j4", "j5"] {
        let result =
            json!({"v": 1, "id": job, "tenant": "public", "status": "expired", "timings_ms": {}});
        store(&broker, job, &result).await;
    }
    let _steward = Steward::start(&fleet, "s1");
    until_messages(&broker, "RESULTS", 3).await;
    assert_eq!(stored(&broker, "j3").await["status"], "expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steward_waits_for_set_up_and_outlives_its_broker() {
    let mut fleet = Fleet::start_bare();
    let steward = Steward::start(&fleet, "s1");
    steward
        .until_says("ADVISORIES is not set up; run: segfleet setup")
        .await;
    set_up(&fleet, &["--attempts", "1", "--ack-wait", "1s"]);
    fleet.server.kill();
    steward.until_says("lost the broker").await;
    fleet.server.resume();
    let broker = connect(&fleet).await;
    submit(&broker, &["j1"], &[]).await;
    give_up(&broker, 1).await;
    until_messages(&broker, "JOBS", 0).await;
    assert_eq!(stored(&broker, "j1").await["worker"], "s1");
    submit(&broker, &["j2"], &[]).await;
    let cancelled = fleet.segfleet(&["cancel", "j2"]);
    assert_eq!(cancelled.status.code(), Some(0), "{}", stderr(&cancelled));
    fleet.server.kill();
    steward.until_says("lost the broker").await;
    assert_eq!(steward.stop(), Some(0));
}
