//! The contract against a real nats-server.

mod publish;
mod server;
mod setup;
