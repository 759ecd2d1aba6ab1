//! Colours that colour-blind people can tell apart.

/// Red, green, blue.
pub(super) type Colour = [u8; 3];

/// Source: M. Okabe and K. Ito, "Color Universal Design" (2008); its black and yellow are left out, which images
/// hide, and the order is by contrast.
const COLOURS: [Colour; 6] = [
    [230, 159, 0],   // orange
    [86, 180, 233],  // sky blue
    [0, 158, 115],   // bluish green
    [213, 94, 0],    // vermillion
    [204, 121, 167], // reddish purple
    [0, 114, 178],   // blue
];

/// The colour of the object with this index; neighbours in the list differ.
pub(super) fn of_object(index: usize) -> Colour {
    COLOURS[index % COLOURS.len()]
}
