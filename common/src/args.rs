//! Command-line arguments that more than one command takes.

use std::time::Duration;

use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{
    forms::Form,
    job::{Connectivity, Forms, Options},
    limits::SIMPLIFY_PX,
};

/// A job's options as flags.
#[derive(Debug, Clone, Args)]
pub struct OptionArgs {
    /// Leave out objects with fewer pixels than this
    #[arg(long, visible_alias = "min-area", default_value_t = Options::default().min_area_px, value_name = "PIXELS",
          value_parser = clap::value_parser!(u64).range(0..=u64::from(u32::MAX)))]
    pub min_area_px: u64,

    /// Whether pixels that touch only at a corner belong to one object (8) or not (4)
    #[arg(long, default_value = "8", value_name = "8|4", value_parser = parse_connectivity)]
    pub connectivity: Connectivity,

    /// Leave out vertices as long as outlines stay this close to the exact ones, in pixels, up to 1024
    #[arg(long, visible_alias = "simplify", default_value_t = Options::default().simplify_px, value_name = "PIXELS",
          value_parser = parse_tolerance)]
    pub simplify_px: f64,

    /// Simplify each object further until it has at most so many vertices; small holes and parts may go
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub max_vertices: Option<u32>,

    /// Leave out objects that are scored lower than this, 0 to 1 [default: the model's own threshold]
    #[arg(long, value_name = "SCORE", value_parser = parse_score)]
    pub score_threshold: Option<f64>,
}

impl OptionArgs {
    /// The options that the flags say, with what the format needs of the outlines.
    #[must_use]
    pub fn to_options(&self, format: Format) -> Options {
        let Self {
            min_area_px,
            connectivity,
            simplify_px,
            max_vertices,
            score_threshold,
        } = *self;
        Options {
            min_area_px,
            connectivity,
            simplify_px,
            max_vertices,
            forms: Forms {
                polygons: true,
                coco_rle: format.wants_run_lengths(),
            },
            score_threshold,
        }
    }
}

/// How one result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// For people: one line.
    Table,
    /// For programs: a JSON object on one line, as the contract has it.
    Json,
}

/// What is made of results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The result itself.
    View(View),
    /// What is made of it for other tools.
    Form(Form),
}

impl Format {
    /// Whether each image has to have a file of its own.
    #[must_use]
    pub fn is_file_each(self) -> bool {
        use Form::{LabelMe, Png, Svg, Yolo};
        matches!(self, Self::Form(Yolo | LabelMe | Svg | Png))
    }

    /// Whether exact run lengths are written.
    fn wants_run_lengths(self) -> bool {
        matches!(self, Self::Form(form) if form.is_data_set())
    }
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [Format; 10] = [
            Format::View(View::Table),
            Format::View(View::Json),
            Format::Form(Form::Polygons),
            Format::Form(Form::Coco),
            Format::Form(Form::Rle),
            Format::Form(Form::GeoJson),
            Format::Form(Form::Yolo),
            Format::Form(Form::LabelMe),
            Format::Form(Form::Svg),
            Format::Form(Form::Png),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::View(view) => view.to_possible_value(),
            Self::Form(form) => form.to_possible_value(),
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

fn parse_tolerance(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (0.0..=SIMPLIFY_PX).contains(number))
        .ok_or_else(|| format!("{text:?} must be a number from 0 to {SIMPLIFY_PX}"))
}

fn parse_score(text: &str) -> Result<f64, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| format!("{text:?} must be a number from 0 to 1"))
}

/// Longest name of a program in results and logs.
pub const NAME_BYTES: usize = 200;

/// Reads a program's name: it travels in headers, which are lines.
///
/// # Errors
/// What it must be.
pub fn parse_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES || text.contains(char::is_control) {
        return Err(format!(
            "{text:?} must be 1 to {NAME_BYTES} bytes without control characters"
        ));
    }
    Ok(text.to_owned())
}

/// A name that no other program has: the host's name, or `program` where it has none, and the process id.
///
/// In a container the process id is 1 and the host's name tells programs apart; elsewhere it is the reverse.
#[must_use]
pub fn default_name(program: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = Some(host.trim()).filter(|host| !host.is_empty());
    format!("{}-{}", host.unwrap_or(program), std::process::id())
}

/// Reads a time such as `30s`, `5m`, `24h` or `14d`.
///
/// # Errors
/// What it must be, for anything else and for zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} must be a time above zero such as 30s, 5m, 24h or 14d");
    let (number, unit_s) =
        split_unit(text, &[("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]).ok_or_else(wrong)?;
    let seconds = number.checked_mul(unit_s).filter(|&seconds| seconds > 0);
    // The broker counts nanoseconds in 63 bits.
    let seconds = seconds.filter(|&seconds| seconds < i64::MAX as u64 / 1_000_000_000);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// Reads a size such as `500MiB` or `4GiB`, in bytes.
///
/// # Errors
/// What it must be, for anything else and for zero.
pub fn parse_bytes(text: &str) -> Result<i64, String> {
    let wrong = || {
        format!("{text:?} must be a size above zero such as 1000000, 512KiB, 500MiB, 4GiB or 1TiB")
    };
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("", 1),
    ];
    let (number, unit_bytes) = split_unit(text, &units).ok_or_else(wrong)?;
    let n_bytes = number
        .checked_mul(unit_bytes)
        .filter(|&n_bytes| n_bytes > 0);
    n_bytes
        .and_then(|n_bytes| i64::try_from(n_bytes).ok())
        .ok_or_else(wrong)
}

/// The number before the first of the units that fits, and the unit's worth.
fn split_unit(text: &str, units: &[(&str, u64)]) -> Option<(u64, u64)> {
    let number =
        |&(unit, worth): &(&str, u64)| Some((text.strip_suffix(unit)?.trim().parse().ok()?, worth));
    units.iter().find_map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_and_form_is_a_format() {
        let views = View::value_variants().iter().copied().map(Format::View);
        let forms = Form::value_variants().iter().copied().map(Format::Form);
        let all: Vec<Format> = views.chain(forms).collect();
        assert_eq!(Format::value_variants(), all);
    }

    #[test]
    fn times_and_sizes_have_units() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("14d"), Ok(Duration::from_secs(14 * 86_400)));
        for bad in [
            "",
            "0s",
            "1",
            "-1s",
            "1.5h",
            "99999999999999999999d",
            "300000000000s",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("4GiB"), Ok(4 << 30));
        assert_eq!(parse_bytes("1000"), Ok(1000));
        for bad in ["", "0", "4GB", "-1", "9999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
