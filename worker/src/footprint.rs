//! [`Footprint`]: what a model takes of this process' memory, as measured while it is loaded and first used.
//!
//! Measured for the process as a whole: what else goes on meanwhile is counted too, so a model is measured before the
//! worker begins, or in a process of its own.

use std::fs;

use segfleet_common::usage::{resident_bytes, status_bytes};
use serde::{Deserialize, Serialize};

/// Memory of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Footprint {
    /// While nothing is segmented, in bytes.
    pub loaded_bytes: u64,
    /// For an inference on the smallest input, in bytes; an engine keeps it for the next one.
    pub inference_bytes: u64,
    /// Inferences that may go on at once, and each keep as much.
    pub n_inferences: u64,
    /// How often the model is loaded for them.
    pub n_copies: u64,
}

impl Footprint {
    /// What a worker must have for it at any time, in bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.loaded_bytes + self.n_inferences * self.inference_bytes
    }

    /// What a process with one image must have for it, in bytes.
    #[must_use]
    pub fn alone_bytes(&self) -> u64 {
        self.loaded_bytes.div_ceil(self.n_copies.max(1)) + self.inference_bytes
    }

    /// Measures what `load` takes, for `n_inferences` at once on `n_copies`, and then the first `infer`.
    /// `freed_bytes` are known to be freed by loading: what infers may use them again, which does not show.
    ///
    /// # Errors
    /// Those of both.
    pub(crate) fn measure<M, E>(
        n_inferences: usize,
        n_copies: usize,
        freed_bytes: u64,
        load: impl FnOnce() -> Result<M, E>,
        infer: impl FnOnce(&M) -> Result<(), E>,
    ) -> Result<(M, Self), E> {
        let before_bytes = resident_bytes();
        let model = load()?;
        let loaded_bytes = resident_bytes();
        forget_peak();
        infer(&model)?;
        let peak_bytes = status_bytes(PEAK);
        let footprint = Self {
            loaded_bytes: loaded_bytes.saturating_sub(before_bytes),
            inference_bytes: peak_bytes.saturating_sub(loaded_bytes) + freed_bytes,
            n_inferences: n_inferences as u64,
            n_copies: n_copies as u64,
        };
        Ok((model, footprint))
    }
}

/// Memory of this process that counts as data, in bytes: what `RLIMIT_DATA` limits.
pub(crate) fn data_bytes() -> u64 {
    status_bytes(DATA)
}

/// Names in `/proc/self/status`; `proc_pid_status(5)`.
const PEAK: &str = "VmHWM:";
const DATA: &str = "VmData:";

/// Has the peak begin anew. Where that is not allowed, the old one makes the model look larger, not smaller.
fn forget_peak() {
    // proc_pid_clear_refs(5): 5 resets the peak of the resident set.
    fs::write("/proc/self/clear_refs", "5").unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn what_is_kept_and_what_is_used_for_a_while_are_told_apart() {
        let load = || Ok::<_, ()>(vec![1_u8; 64 * MIB]);
        let infer = |_: &Vec<u8>| {
            let used = vec![1_u8; 128 * MIB];
            std::hint::black_box(&used);
            Ok(())
        };
        let (model, footprint) = Footprint::measure(2, 2, 0, load, infer).expect("both work");
        assert_eq!(model.len(), 64 * MIB);
        let at_least = |bytes: u64, n_mib: u64| bytes >= n_mib << 20;
        // Other tests of this process take memory, and give some back.
        assert!(at_least(footprint.loaded_bytes, 48), "{footprint:?}");
        assert!(at_least(footprint.inference_bytes, 96), "{footprint:?}");
        assert!(
            at_least(footprint.kept_bytes(), 48 + 2 * 96),
            "{footprint:?}"
        );
        assert!(at_least(footprint.alone_bytes(), 24 + 96), "{footprint:?}");
    }
}
