//! [`LabelMap`]: which object a pixel belongs to.

/// For each of `height` x `width` pixels, row by row, the number of its object; 0 is the background.
///
/// `T` is `u8`, `u16` or `u32`. Numbers need not be consecutive, and an object need not be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelMap<'a, T> {
    width_px: u32,
    labels: &'a [T],
}

impl<'a, T: Copy + Eq + Into<u32>> LabelMap<'a, T> {
    /// Makes a map of one number per pixel.
    ///
    /// # Panics
    /// When the numbers are not whole rows of `width_px`.
    ///
    /// ```
    /// use segfleet_worker::labels::LabelMap;
    ///
    /// let map = LabelMap::new(3, &[0u8, 7, 7, 0, 9, 7]);
    /// assert_eq!(map.rows().collect::<Vec<_>>(), [[0, 7, 7], [0, 9, 7]]);
    /// ```
    pub fn new(width_px: u32, labels: &'a [T]) -> Self {
        assert_eq!(labels.len() % (width_px as usize).max(1), 0, "whole rows");
        Self { width_px, labels }
    }

    /// The numbers of each row, from the top down.
    pub fn rows(&self) -> impl Iterator<Item = &'a [T]> + use<'a, T> {
        self.labels.chunks_exact((self.width_px as usize).max(1))
    }
}
