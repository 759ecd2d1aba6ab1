//! [`DisjointSets`]: which parts belong together.

/// Disjoint sets of indexes, the smallest of each set its root.
pub(super) struct DisjointSets {
    parents: Vec<usize>,
}

impl DisjointSets {
    pub(super) fn new(n_sets: usize) -> Self {
        Self {
            parents: (0..n_sets).collect(),
        }
    }

    pub(super) fn root(&mut self, mut index: usize) -> usize {
        while self.parents[index] != index {
            // Halving the path keeps later searches short.
            self.parents[index] = self.parents[self.parents[index]];
            index = self.parents[index];
        }
        index
    }

    pub(super) fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.parents[one.max(other)] = one.min(other);
    }
}
