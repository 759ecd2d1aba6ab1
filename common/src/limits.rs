//! Every bound of the contract, each with its unit and its reason.
//!
//! Bounds that an operator may set (image sides, quotas) have their **defaults** here; the rest are fixed.

use std::time::Duration;

/// The version of the messages, their `v`.
pub const VERSION: u64 = 1;

/// Longest tenant, model or job id. Long enough for a UUID and a readable prefix.
pub const TOKEN_CHARS: usize = 64;

/// Longest job id that is answered although it breaks the rule for tokens. The broker closes the connection of
/// a client whose control line, subject included, is over 4096 bytes.
pub const FOREIGN_ID_BYTES: usize = 512;

/// Room that a message leaves under the broker's `max_payload`, for headers and for the failure headers of
/// a dead letter, which carries the whole job.
pub const MESSAGE_HEADROOM_BYTES: usize = 64 * 1024;

/// Room that a job leaves for its headers within what the stream takes.
pub const JOB_HEADERS_BYTES: usize = 1024;

/// Largest `metadata` of a job, as MessagePack. It travels twice and is stored with the result.
pub const METADATA_BYTES: usize = 16 * 1024;

/// Largest `options` of a job, as MessagePack or JSON.
pub const OPTIONS_BYTES: usize = 16 * 1024;

/// Deepest nesting of `options` and `metadata`: no person writes more, and readers recurse.
pub const NESTING_DEPTH: usize = 64;

/// Largest `simplify_px`.
pub const SIMPLIFY_PX: f64 = 1024.0;

/// Longest image side (default), in pixels.
pub const IMAGE_SIDE_PX: u32 = 16_384;
/// Most pixels of an image (default): 100 megapixels.
pub const IMAGE_PIXELS: u64 = 100_000_000;
/// Largest image file (default), in bytes.
pub const IMAGE_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Most objects in one result; more is noise, not an answer.
pub const RESULT_OBJECTS: usize = 100_000;

/// Most vertices of one result. A vertex takes three bytes or more, so more would not fit into a message.
pub const RESULT_VERTICES: usize = 3_000_000;

/// Longest side of an image in a result, whatever limits its worker has; readers refuse more.
pub const RESULT_SIDE_PX: u32 = 1 << 20;
/// Most pixels of an image in a result, likewise.
pub const RESULT_PIXELS: u64 = u32::MAX as u64;

/// Longest message of an error. It may quote what a client sent.
pub const ERROR_MESSAGE_CHARS: usize = 1000;

/// How long a delivered job may stay unsettled without a sign of life before the broker hands it out again
/// (default). Well above the 5 to 11 s that a broker's failover takes.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// Signs of life per ack wait: two may be lost.
pub const HEARTBEATS_PER_ACK_WAIT: u32 = 3;

/// How long one job may compute (default): far more than any image needs, little enough that one that never ends
/// does not hold a thread for long.
pub const RUN_TIME: Duration = Duration::from_secs(120);

/// How often a job is tried (default). A drain counts too, hence more than the usual three.
pub const ATTEMPTS: u32 = 5;
/// Deliveries that the broker allows beyond our own attempts: only a fuse for workers that die before
/// they can count.
pub const FUSE_DELIVERIES: u32 = 5;

/// Jobs of one model that may be in flight at once in the whole fleet (default), those that wait to be tried again
/// included.
pub const ACK_PENDING: i64 = 10_000;
/// Waiting pulls of one model in the whole fleet; the overflow of the broker's default, 512, is silent.
pub const WAITING_PULLS: i64 = 16_384;
/// The broker's window for duplicate message ids, at its minimum: it spans tenants, and we use none.
pub const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// Sources (stream and consumer) that one worker serves at most.
pub const SOURCES_PER_WORKER: usize = 16;

/// A tenant's queue (default): 4 GiB of images.
pub const JOBS_BYTES: i64 = 4 * GIB;
/// A tenant's queue (default): a million jobs; the broker holds their subjects in memory.
pub const JOBS_MESSAGES: i64 = 1_000_000;
/// How long results are kept (default).
pub const RESULTS_AGE: Duration = Duration::from_secs(24 * 3600);
/// A tenant's kept results (default).
pub const RESULTS_BYTES: i64 = 8 * GIB;
/// A tenant's kept results (default): a million cost the broker about half a gigabyte of memory.
pub const RESULTS_MESSAGES: u64 = 1_000_000;
/// How long blobs are kept: longer than dead letters and results.
pub const BLOBS_AGE: Duration = Duration::from_secs(16 * 24 * 3600);
/// A tenant's blobs (default).
pub const BLOBS_BYTES: i64 = 8 * GIB;
/// How long dead letters are kept (default).
pub const DEAD_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Dead letters of all tenants (default).
pub const DEAD_BYTES: i64 = 2 * GIB;
/// Model packages (default): dozens of large networks. Nothing is ever deleted by age.
pub const MODELS_BYTES: i64 = 16 * GIB;
/// How long the broker's notices are kept.
pub const ADVISORIES_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// The broker's notices: room for a million of up to 512 bytes, as many as a tenant's queue has jobs by default. Without
/// one, a job of a model that is never idle has to wait for its end.
pub const ADVISORIES_BYTES: i64 = 512 * 1024 * 1024;
/// How often a notice is handed out. Tried every minute at last, a job is tried for half a day; one that nobody can
/// read is there again every ack wait, for a third of a day.
pub const ADVISORIES_DELIVERIES: i64 = 1000;

/// How long a steward may take over one of those notices before another gets it.
pub const ADVISORIES_ACK_WAIT: Duration = Duration::from_secs(30);

const GIB: i64 = 1024 * 1024 * 1024;
