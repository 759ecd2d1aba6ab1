//! What the broker is to us: a connection, streams of a fixed shape, and publishing something first.
//!
//! Owns the connection ([`Broker`]), the shapes of streams and consumers and their set-up ([`Setup`]), the
//! check that a worker makes before it pulls ([`Broker::bind`]), the one way we publish to a stream
//! ([`Broker::publish_first`]), which workers there are ([`WorkerEntry`]), and what stewards look at and take away
//! ([`Notices`], [`Queue`], [`StoredMessage`]). Does not decide what a failure means for a job: that is the caller's.

mod bind;
mod change;
mod connect;
mod dead;
mod fill;
mod notices;
mod nudge;
mod packages;
mod publish;
mod queue;
mod roster;
mod setup;
mod shape;
mod status;
mod stored;
mod streams;

pub use bind::{BindError, BoundConsumer, Problem};
pub use change::{Change, FieldChange};
pub use connect::{Broker, ConnectArgs, ConnectError, Link, NO_BROKER};
pub use dead::{DeadError, DeadFilter, DeadLetter, GivenUp};
pub use fill::Fill;
pub use notices::{LastDelivery, Notice, Notices};
pub use packages::PackageError;
pub use publish::{Answered, FetchError, First, Message, PublishError, header_text};
pub use queue::{Progress, Queue, QueueConsumer, Trimmed};
pub use roster::{Registration, RosterError, ServedModel, WORKER_SERVICE, WorkerEntry};
pub use setup::{Settings, Setup};
pub use status::{ConsumerStatus, StreamStatus};
pub use stored::StoredMessage;
pub use streams::StreamsError;
