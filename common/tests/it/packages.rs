//! What a broker that keeps no packages says.

use segfleet_common::broker::{Broker, ConnectArgs};

use crate::server::Server;

#[tokio::test]
async fn only_a_bucket_that_is_missing_is_to_be_set_up() {
    let server = Server::start_with(
        r#"
        accounts {
            WITH { jetstream: enabled, users: [ {user: with, password: p} ] }
            WITHOUT { users: [ {user: without, password: p} ] }
        }
        "#,
    );
    let said = async |user: &str| {
        let url = server
            .url()
            .replace("nats://", &format!("nats://{user}:p@"));
        let connected = Broker::connect(&ConnectArgs::plain(url), "test").await;
        let packages = connected.expect("let in").packages().await;
        packages.expect_err("there are none").to_string()
    };
    let missing = "the bucket models is not set up; run: segfleet setup";
    assert_eq!(said("with").await, missing);
    let refused = said("without").await;
    let expected = "the broker's models cannot be read or changed: ";
    assert!(refused.starts_with(expected), "{refused}");
}
