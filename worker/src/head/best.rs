//! [`Best`]: which of several classes has the highest value, at many places at once.

/// For each place the highest value so far, and its class.
#[derive(Debug)]
pub(super) struct Best {
    pub(super) values: Vec<f32>,
    /// [`NO_CLASS`] where there was nothing but NaN and minus infinity.
    pub(super) classes: Vec<u32>,
}

/// The number of no class.
pub(super) const NO_CLASS: u32 = u32::MAX;

impl Best {
    pub(super) fn of(n_places: usize) -> Self {
        Self {
            values: vec![f32::NEG_INFINITY; n_places],
            classes: vec![NO_CLASS; n_places],
        }
    }

    pub(super) fn clear(&mut self) {
        self.values.fill(f32::NEG_INFINITY);
        self.classes.fill(NO_CLASS);
    }

    /// Takes in the values of one more class. Of equal ones the first that came stays.
    pub(super) fn offer(&mut self, class: u32, values: &[f32]) {
        let bests = self.values.iter_mut().zip(&mut self.classes);
        for ((best, best_class), &value) in bests.zip(values) {
            // Two selections, of which the compiler makes vectors.
            let is_better = value > *best;
            *best_class = if is_better { class } else { *best_class };
            *best = if is_better { value } else { *best };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_highest_stays_and_nan_is_nothing() {
        let mut best = Best::of(4);
        best.offer(0, &[1.0, f32::NAN, f32::NAN, 2.0]);
        best.offer(1, &[1.0, -5.0, f32::NEG_INFINITY, 3.0]);
        assert_eq!(best.classes, [0, 1, NO_CLASS, 1]);
        best.clear();
        assert_eq!(best.classes, [NO_CLASS; 4]);
    }
}
