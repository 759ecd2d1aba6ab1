//! The contract against a real nats-server.

mod login;
mod packages;
mod publish;
mod roster;
mod server;
mod setup;
