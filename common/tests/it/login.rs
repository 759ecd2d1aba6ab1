//! Who connects, as the address says it.

use segfleet_common::broker::{Broker, ConnectArgs};

use crate::server::Server;

#[tokio::test]
async fn the_address_may_name_the_user() {
    let users = r#"
        authorization { users = [ {user: "me", password: "p@ss"} ] }
    "#;
    let server = Server::start_with(users);
    let at = |login: &str| server.url().replace("nats://", &format!("nats://{login}"));
    let connect = async |login: &str| Broker::connect(&ConnectArgs::plain(at(login)), "test").await;
    connect("me:p%40ss@").await.expect("let in");
    for login in ["", "me:wrong@", "token@"] {
        let refused = connect(login).await.expect_err("kept out").to_string();
        let expected = format!("the broker at {} refuses this user: ", server.url());
        assert!(refused.starts_with(&expected), "{refused}");
        assert!(!refused.contains("start one there"), "{refused}");
        assert!(!refused.contains("wrong"), "{refused}");
    }
}
