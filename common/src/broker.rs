//! What the broker is to us: a connection, streams of a fixed shape, and publishing something first.
//!
//! Owns the connection ([`Broker`]), the shapes of streams and consumers and their set-up ([`Setup`]), the
//! check that a worker makes before it pulls ([`Broker::bind`]), and the one way we publish to a stream
//! ([`Broker::publish_first`]). Does not decide what a failure means for a job: that is the caller's.

mod bind;
mod connect;
mod publish;
mod setup;
mod shape;
mod status;

pub use bind::{BindError, BoundConsumer};
pub use connect::{Broker, ConnectArgs, ConnectError, Link};
pub use publish::{FetchError, First, Message, PublishError};
pub use setup::{Change, FieldChange, Settings, Setup, StreamsError};
pub use status::{ConsumerStatus, StreamStatus};
