//! The client of a Segfleet: submit images, wait for outlines.
//!
//! [`client`] and [`cancel`] are the library; [`config`], [`commands`] and [`output`] make the `segfleet` command of it,
//! and [`steward`] is what its subcommand of that name runs.
//!
//! ```no_run
//! use segfleet_common::{broker::ConnectArgs, job::{Job, Options}, subject::Tenant};
//! use segfleet_producer::client::Client;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(&ConnectArgs::plain("nats://127.0.0.1:4222"), Tenant::default()).await?;
//! let image = std::fs::read("photo.jpg")?.into();
//! let job = Job { image, options: Options::default(), metadata: None };
//! let pending = client.submit(&"threshold".parse()?, &job).await?;
//! let received = client.wait(pending).await?;
//! println!("{:?}", received.result.outcome);
//! # Ok(())
//! # }
//! ```

mod ask;
mod budget;
pub mod cancel;
pub mod client;
pub mod commands;
pub mod config;
pub mod info;
pub mod output;
pub mod steward;
mod submission;
