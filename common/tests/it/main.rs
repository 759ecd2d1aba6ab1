//! The contract against a real nats-server.

mod login;
mod publish;
mod server;
mod setup;
