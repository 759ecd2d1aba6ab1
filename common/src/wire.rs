//! How jobs and results travel: MessagePack maps with string keys, or JSON for results and options.
//!
//! The only place that knows the bytes. Reading is strict about what it uses and blind to the rest: unknown
//! keys are skipped, absent and nil are the same. A job is foreign input: its map is scanned without
//! recursion and without allocating more than the limits allow, whatever lengths it claims, and every
//! failure is a [`crate::result::JobError`], ready to be answered. A change here is a change of the
//! contract and comes with golden bytes.

mod job;
mod options;
mod result;
mod scan;
mod service;
mod value;

pub use job::{JobMessage, encode_job, read_job, read_metadata};
pub use result::{
    ReadError, ResultFormat, encode_result, objects_to_json, read_result, result_to_json,
};
pub use service::{CancelAnswer, CancelStatus, InfoAnswer, ModelQueue};

/// Media type of MessagePack messages.
pub const MSGPACK: &str = "application/msgpack";
/// Media type of JSON messages.
pub const JSON: &str = "application/json";

/// The media type of a `Content-Type` or `Accept` header, lower case and without its parameters.
fn media_type(header: &str) -> String {
    let essence = header.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}
