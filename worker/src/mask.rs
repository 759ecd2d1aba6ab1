//! [`Mask`]: which pixels are foreground.

/// `height` x `width` foreground flags, row by row from the top left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    width_px: u32,
    height_px: u32,
    /// `width * height` flags.
    foreground: Vec<bool>,
}

impl Mask {
    /// Makes a mask that is foreground where `is_foreground(x, y)` says so.
    ///
    /// ```
    /// use segfleet_worker::mask::Mask;
    ///
    /// let mask = Mask::from_fn(3, 2, |x, y| x == 2 && y == 0);
    /// assert_eq!(mask.foreground(), [false, false, true, false, false, false]);
    /// ```
    pub fn from_fn(
        width_px: u32,
        height_px: u32,
        is_foreground: impl Fn(u32, u32) -> bool,
    ) -> Self {
        let pixels = (0..height_px).flat_map(|y| (0..width_px).map(move |x| (x, y)));
        let foreground = pixels.map(|(x, y)| is_foreground(x, y)).collect();
        Self {
            width_px,
            height_px,
            foreground,
        }
    }

    /// Takes flags that exist already.
    ///
    /// # Panics
    /// When there are not `width * height` of them.
    #[must_use]
    pub fn from_flags(width_px: u32, height_px: u32, foreground: Vec<bool>) -> Self {
        assert_eq!(
            foreground.len(),
            width_px as usize * height_px as usize,
            "one flag per pixel"
        );
        Self {
            width_px,
            height_px,
            foreground,
        }
    }

    /// Width in pixels.
    #[must_use]
    pub fn width_px(&self) -> u32 {
        self.width_px
    }

    /// Height in pixels.
    #[must_use]
    pub fn height_px(&self) -> u32 {
        self.height_px
    }

    /// The flags, row by row.
    #[must_use]
    pub fn foreground(&self) -> &[bool] {
        &self.foreground
    }
}
