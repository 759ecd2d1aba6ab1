//! Everything that touches pixels, and the worker around it.
//!
//! Read in this order: one job as a straight line ([`process`]: [decode](segfleet_common::decode), [`segment`], [`outline`] over a
//! [`mask`] or [`labels`]), then how jobs come and go: [`run()`] binds sources, `consume` takes what `pull` asks for,
//! `delivery` owns one message and its lease, `serve` takes it from arrival to settlement by the table in
//! `settle`, `settler` carries that out, and `pool` is where pixels are computed.

pub mod config;
pub mod labels;
pub mod local;
pub mod mask;
pub mod outline;
pub mod process;
pub mod segment;

mod consume;
mod delivery;
mod gate;
mod pool;
mod pull;
mod run;
mod serve;
mod settle;
mod settler;
mod worker;
mod writer;

pub use run::{RunError, RunReport, run};
