//! Command-line arguments that more than one command takes.

use clap::Args;

use crate::job::{Connectivity, Options};

/// A job's options as flags.
#[derive(Debug, Clone, Args)]
pub struct OptionArgs {
    /// Leave out objects with fewer pixels than this
    #[arg(long, default_value_t = Options::default().min_area_px, value_name = "PIXELS",
          value_parser = clap::value_parser!(u64).range(0..=u64::from(u32::MAX)))]
    pub min_area_px: u64,

    /// Whether pixels that touch only at a corner belong to one object (8) or not (4)
    #[arg(long, default_value = "8", value_name = "8|4", value_parser = parse_connectivity)]
    pub connectivity: Connectivity,
}

impl OptionArgs {
    /// The options that the flags say.
    #[must_use]
    pub fn to_options(&self) -> Options {
        let Self {
            min_area_px,
            connectivity,
        } = *self;
        Options {
            min_area_px,
            connectivity,
            ..Options::default()
        }
    }
}

fn parse_connectivity(text: &str) -> Result<Connectivity, String> {
    match text {
        "4" => Ok(Connectivity::Four),
        "8" => Ok(Connectivity::Eight),
        other => Err(format!("{other:?} must be 4 or 8")),
    }
}
