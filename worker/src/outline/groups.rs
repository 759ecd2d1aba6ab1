//! [`group`]: sorting by counting.

use std::ops::Range;

/// Items sorted by group, those of a group in the order that they had.
#[derive(Debug)]
pub(super) struct Groups<T> {
    /// Where each group begins in `items`; one more for the end.
    starts: Vec<usize>,
    items: Vec<T>,
}

/// Sorts `items` into `n_groups` groups, in time linear in both.
pub(super) fn group<T: Copy + Default>(
    items: &[T],
    n_groups: usize,
    group_of: impl Fn(&T) -> usize,
) -> Groups<T> {
    let mut starts = vec![0; n_groups + 1];
    for item in items {
        starts[group_of(item) + 1] += 1;
    }
    for group in 1..starts.len() {
        starts[group] += starts[group - 1];
    }
    let mut places = starts.clone();
    let mut sorted = vec![T::default(); items.len()];
    for item in items {
        let place = &mut places[group_of(item)];
        sorted[*place] = *item;
        *place += 1;
    }
    Groups {
        starts,
        items: sorted,
    }
}

impl<T> Groups<T> {
    /// The items of some groups that follow each other.
    pub(super) fn items(&self, groups: Range<usize>) -> &[T] {
        &self.items[self.starts[groups.start]..self.starts[groups.end]]
    }
}
