//! The `segfleet` command and the client library against a real nats-server and real workers.

mod chaos;
mod client;
mod command;
mod dead;
mod documents;
mod fleet;
mod follow;
mod kubernetes;
#[path = "../../../common/tests/it/manifests.rs"]
mod manifests;
mod many;
mod model;
mod readme;
#[path = "../../../common/tests/it/server.rs"]
mod server;
mod steward;
mod users;
