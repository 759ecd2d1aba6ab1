//! The contract of a Segfleet, and the plumbing that its clients and workers share.
//!
//! Read in this order: the domain types ([`job`], [`result`], [`polygon`]), how they travel ([`wire`],
//! [`subject`], [`limits`]), how pixels come in ([`decode`]) and outlines go out to other tools ([`forms`],
//! [`raster`]), what carries them ([`broker`], [`retry`], [`shutdown`], [`stdout`]), and how programs are looked at
//! ([`telemetry`], [`trace`], [`mod@metrics`], [`http`]).
//! The same contract in prose, for clients in other languages, is this member's `README.md`.
//!
//! What is deliberately not here: models, masks and the tracing of outlines (the worker's), and anything that
//! decides when a job is finished (the worker's `settle`).

pub mod job;
pub mod package;
pub mod polygon;
pub mod result;
pub mod rle;

pub mod limits;
pub mod subject;
pub mod wire;

pub mod decode;
pub mod forms;
pub mod raster;

pub mod args;
pub mod broker;
pub mod http;
pub mod metrics;
pub mod retry;
pub mod shutdown;
pub mod stdout;
pub mod telemetry;
pub mod trace;
pub mod usage;
