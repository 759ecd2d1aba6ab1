//! [`DisjointSets`]: what belongs together.

/// Disjoint sets of indexes; the smallest index of each set is its root.
#[derive(Debug)]
pub(super) struct DisjointSets {
    parents: Vec<u32>,
}

impl DisjointSets {
    /// `n_sets` sets of one index each.
    pub(super) fn of(n_sets: usize) -> Self {
        let n_sets = u32::try_from(n_sets).expect("there are fewer parts than 2^32");
        Self {
            parents: (0..n_sets).collect(),
        }
    }

    pub(super) fn join(&mut self, one: u32, other: u32) {
        let (one, other) = (self.root(one), self.root(other));
        self.parents[one.max(other) as usize] = one.min(other);
    }

    fn root(&mut self, mut index: u32) -> u32 {
        while self.parents[index as usize] != index {
            // Halving the path keeps later searches short.
            let parent = self.parents[self.parents[index as usize] as usize];
            self.parents[index as usize] = parent;
            index = parent;
        }
        index
    }

    /// For each index the number of its set, counted from 0 in order of roots.
    pub(super) fn number(mut self) -> Vec<u32> {
        let mut n_sets = 0;
        for index in 0..self.parents.len() {
            let parent = self.parents[index];
            // A parent is smaller than its child, and so has its number already.
            self.parents[index] = if parent as usize == index {
                n_sets += 1;
                n_sets - 1
            } else {
                self.parents[parent as usize]
            };
        }
        self.parents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_numbered_in_order_of_their_smallest_index() {
        let mut sets = DisjointSets::of(6);
        sets.join(5, 1);
        sets.join(4, 3);
        sets.join(3, 5);
        assert_eq!(sets.number(), [0, 1, 2, 1, 1, 1]);
    }
}
