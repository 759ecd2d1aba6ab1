//! The `segfleet` command and the client library against a real nats-server and real workers.

mod chaos;
mod client;
mod command;
mod dead;
mod documents;
mod fleet;
mod follow;
#[path = "../../../common/tests/it/found.rs"]
mod found;
mod jaeger;
mod kubernetes;
mod logs;
#[path = "../../../common/tests/it/manifests.rs"]
mod manifests;
mod many;
mod model;
#[path = "../../../common/tests/it/patience.rs"]
mod patience;
mod prometheus;
mod readme;
#[path = "../../../common/tests/it/server.rs"]
mod server;
mod steward;
mod trace;
mod traces;
mod users;
#[path = "../../../common/tests/it/watched.rs"]
mod watched;
