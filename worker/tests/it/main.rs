//! Jobs and results over a real nats-server, from a client that knows only the contract.

mod command;
mod errors;
mod fleet;
mod formats;
mod hostile;
mod life;
mod models;
mod outline;
mod photographs;
#[path = "../../../common/tests/it/server.rs"]
mod server;
