//! Everything that touches pixels, and the worker around it.
//!
//! Read in this order: one job as a straight line ([`process`]: [decode](segfleet_common::decode), [`segment`], what was
//! [`found`] as [`outline`]s over a [`mask`] or [`labels`]); where models come from ([`choice`]: built in, or a [`package`]
//! that has [`preprocess`], an [`engine`] and a [`head`]); then how jobs come and go: [`run()`] binds sources, `consume`
//! takes what `pull` asks for, `delivery` owns one message and its lease, `serve` takes it from arrival to settlement by
//! the table in `settle`, and `settler` carries that out. `compute` has the pixels computed: on a thread of the `pool`, or
//! in a process that [`isolate`] starts and [`child`] is; their `memory` is one budget. What is seen of all that from
//! outside is `health`, with its [`metrics`].

pub mod args;
pub mod child;
pub mod choice;
pub mod config;
pub mod engine;
pub mod failpoint;
pub mod fetch;
pub mod follow;
pub mod footprint;
pub mod found;
pub mod head;
pub mod isolate;
pub mod labels;
pub mod load;
pub mod local;
pub mod mask;
pub mod metrics;
pub mod outline;
pub mod package;
pub mod preprocess;
pub mod process;
pub mod segment;

mod compute;
mod consume;
mod delivery;
mod gate;
mod health;
mod journal;
mod memory;
mod pool;
mod pull;
mod registration;
mod run;
mod run_time;
mod serve;
mod served;
mod settle;
mod settler;
mod stops;
mod watchdog;
mod worker;
mod writer;

pub use run::{RunError, RunReport, run};
