//! From a label map to the runs of every object in it, in one pass over the pixels.

use std::collections::HashMap;

use super::{
    OutlineError,
    groups::{Groups, group},
    weave::Column,
};
use crate::labels::LabelMap;

/// Most runs that are kept in memory at once; a map with more is noise.
const MAX_RUNS: usize = 25_000_000;

/// Pixels of a row that follow each other and belong to one object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// The object, counted from 0 in order of first pixels.
    object: u32,
    pub(super) y: u32,
    pub(super) left: Column,
    /// One past the last pixel.
    pub(super) right: Column,
}

/// The runs of all objects, those of an object together and in reading order.
#[derive(Debug)]
pub(super) struct RunsByObject {
    runs: Groups<Run>,
    /// For each object its label.
    labels: Vec<u32>,
}

impl RunsByObject {
    pub(super) fn find<T: Copy + Eq + Into<u32>>(
        map: &LabelMap<'_, T>,
    ) -> Result<Self, OutlineError> {
        let mut runs: Vec<Run> = Vec::new();
        let mut objects = Objects::default();
        let mut above = 0..0;
        for (row, y) in map.rows().zip(0..) {
            let start = runs.len();
            let mut left = 0;
            while left < row.len() {
                let right = run_end(row, left);
                let label = row[left].into();
                let (run_left, run_right) = (column(left), column(right));
                left = right;
                if label == 0 {
                    continue;
                }
                // Runs above that end further left touch nothing any more.
                while above.start < above.end && runs[above.start].right <= run_left {
                    above.start += 1;
                }
                let over = runs[above.clone()]
                    .iter()
                    .take_while(|run| run.left < run_right);
                let object = objects.number(label, over);
                runs.push(Run {
                    object,
                    y,
                    left: run_left,
                    right: run_right,
                });
            }
            above = start..runs.len();
            if runs.len() > MAX_RUNS {
                return Err(OutlineError::TooManyRuns { limit: MAX_RUNS });
            }
        }
        Ok(Self {
            runs: group(&runs, objects.labels.len(), |run| run.object as usize),
            labels: objects.labels,
        })
    }

    /// Each object's label and runs, objects in order of their first pixels.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[Run])> {
        let runs = |object: usize| self.runs.items(object..object + 1);
        let labels = self.labels.iter().copied().enumerate();
        labels.map(move |(object, label)| (label, runs(object)))
    }
}

/// The objects found so far.
#[derive(Default)]
struct Objects {
    labels: Vec<u32>,
    by_label: HashMap<u32, u32>,
}

impl Objects {
    /// The object of a label; most are found among the runs above.
    fn number<'a>(&mut self, label: u32, mut over: impl Iterator<Item = &'a Run>) -> u32 {
        let labels = &mut self.labels;
        if let Some(run) = over.find(|run| labels[run.object as usize] == label) {
            return run.object;
        }
        *self.by_label.entry(label).or_insert_with(|| {
            labels.push(label);
            u32::try_from(labels.len() - 1).expect("an image has fewer than 2^32 pixels")
        })
    }
}

/// Where the run ends that begins at `left`.
fn run_end<T: Copy + Eq>(row: &[T], left: usize) -> usize {
    let value = row[left];
    let is_same = |values: &&[T; 16]| values.iter().fold(true, |same, v| same & (*v == value));
    let (blocks, _) = row[left..].as_chunks::<16>();
    let from = left + 16 * blocks.iter().take_while(is_same).count();
    let rest = row[from..].iter().take_while(|v| **v == value).count();
    from + rest
}

fn column(index: usize) -> Column {
    Column::try_from(index).expect("columns are 32 bits wide")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_grouped_by_object_in_order_of_first_pixels() {
        let map = LabelMap::new(4, &[0, 9, 9, 2, 2, 2, 0, 9, 9, 0, 2, 2u16]);
        let found = RunsByObject::find(&map).expect("few runs");
        let runs: Vec<_> = found
            .iter()
            .map(|(label, runs)| {
                let runs = runs.iter().map(|run| (run.y, run.left, run.right));
                (label, runs.collect::<Vec<_>>())
            })
            .collect();
        let expected = [
            (9, vec![(0, 1, 3), (1, 3, 4), (2, 0, 1)]),
            (2, vec![(0, 3, 4), (1, 0, 2), (2, 2, 4)]),
        ];
        assert_eq!(runs, expected);
    }

    #[test]
    fn long_runs_end_where_the_value_changes() {
        for n_same in [1, 15, 16, 17, 64, 100] {
            let mut row = vec![3u32; n_same];
            row.extend([4; 20]);
            assert_eq!(run_end(&row, 0), n_same);
        }
    }
}
