//! A PNG of the image with its objects over it: translucent fill, outline, label.

use std::sync::LazyLock;

use ab_glyph::FontRef;
use image::{DynamicImage, Rgba, RgbaImage};
use imageproc::{
    drawing::{Blend, draw_filled_rect_mut, draw_line_segment_mut, draw_text_mut, text_size},
    rect::Rect,
};

use super::{Picture, colour, decode_shown, encode_png, number};
use crate::{
    polygon::{Point, Polygon},
    raster,
    result::{JobError, Object},
};

/// How much a fill covers what is below it, of 255.
const FILL_ALPHA: u8 = 90;
/// Outlines are a pixel wider for each so many pixels of the image's shorter side.
const PX_PER_LINE: u32 = 1000;
/// Labels are a pixel higher for each so many pixels of the image's shorter side.
const PX_PER_LABEL_PX: u32 = 32;
/// Height of the smallest labels.
const MIN_LABEL_PX: u32 = 12;

/// Hack, a face for screens.
static FONT: LazyLock<FontRef<'static>> = LazyLock::new(|| {
    FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).expect("a font that was built in")
});

pub(super) fn write(picture: &Picture<'_>) -> Result<Vec<u8>, JobError> {
    let shown = decode_shown(picture)?;
    let has_alpha = shown.color().has_alpha();
    let mut canvas = Blend(shown.into_rgba8());
    for (index, object) in picture.objects.iter().enumerate() {
        fill(&mut canvas, object, index);
    }
    for (index, object) in picture.objects.iter().enumerate() {
        draw_outline(&mut canvas.0, object, index);
    }
    for (index, object) in picture.objects.iter().enumerate() {
        draw_label(&mut canvas, object, index);
    }
    let mut drawn = DynamicImage::from(canvas.0);
    if !has_alpha {
        drawn = drawn.into_rgb8().into();
    }
    Ok(encode_png(&drawn))
}

fn fill(canvas: &mut Blend<RgbaImage>, object: &Object, index: usize) {
    let [red, green, blue] = colour::of_object(index);
    let colour = Rgba([red, green, blue, FILL_ALPHA]);
    let height = canvas.0.height();
    for run in raster::columns(&object.polygons, canvas.0.width(), height).chunks_exact(2) {
        let mut from = run[0];
        while from < run[1] {
            let to = run[1].min((from / u64::from(height) + 1) * u64::from(height));
            let x = signed(from / u64::from(height));
            let column = Rect::at(x, signed(from % u64::from(height)));
            let n_rows = u32::try_from(to - from).expect("within a column");
            draw_filled_rect_mut(canvas, column.of_size(1, n_rows), colour);
            from = to;
        }
    }
}

/// Along the pixels on the inner side of the edges, which is the right-hand one.
fn draw_outline(canvas: &mut RgbaImage, object: &Object, index: usize) {
    let [red, green, blue] = colour::of_object(index);
    let colour = Rgba([red, green, blue, 255]);
    let n_lines = canvas.width().min(canvas.height()) / PX_PER_LINE + 1;
    for ring in object.polygons.iter().flat_map(Polygon::rings) {
        for edge in ring.edges() {
            for line in 0..n_lines {
                let (from, to) = inner_line(edge, line);
                draw_line_segment_mut(canvas, from, to, colour);
            }
        }
    }
}

/// The middles of the first and the last pixel beside an edge; the line 0 is the nearest one.
fn inner_line((from, to): (Point, Point), line: u32) -> ((f32, f32), (f32, f32)) {
    #[expect(
        clippy::cast_precision_loss,
        reason = "an image's sides are far below 2^24"
    )]
    let at = |p: Point| (p.x as f32, p.y as f32);
    let ((x0, y0), (x1, y1)) = (at(from), at(to));
    let length = (x1 - x0).hypot(y1 - y0);
    let (along_x, along_y) = ((x1 - x0) / length, (y1 - y0) / length);
    #[expect(clippy::cast_precision_loss, reason = "a few lines")]
    let inwards = line as f32 + 0.5;
    // A pixel's number is its middle's coordinate less a half.
    let beside = |x: f32, y: f32, along: f32| {
        (
            x + along * along_x - inwards * along_y - 0.5,
            y + along * along_y + inwards * along_x - 0.5,
        )
    };
    (beside(x0, y0, 0.5), beside(x1, y1, -0.5))
}

/// The label, or else the number, in the corner of the object's box, where there is room for it.
fn draw_label(canvas: &mut Blend<RgbaImage>, object: &Object, index: usize) {
    let shorter = canvas.0.width().min(canvas.0.height());
    #[expect(
        clippy::cast_precision_loss,
        reason = "an image's sides are far below 2^24"
    )]
    let height_px = (shorter / PX_PER_LABEL_PX).max(MIN_LABEL_PX) as f32;
    let number = number(object, index);
    let text = object.label.as_deref().unwrap_or(&number);
    let (text_width, text_height) = text_size(height_px, &*FONT, text);
    let (width, height) = (text_width + 4, text_height + 4);
    if object.bbox.width < width || object.bbox.height < 2 * height {
        return;
    }
    let (x, y) = (signed(object.bbox.x.into()), signed(object.bbox.y.into()));
    let [red, green, blue] = colour::of_object(index);
    let ground = Rect::at(x, y).of_size(width, height);
    draw_filled_rect_mut(canvas, ground, Rgba([red, green, blue, 220]));
    let black = Rgba([0, 0, 0, 255]);
    draw_text_mut(canvas, black, x + 2, y, height_px, &*FONT, text);
}

/// A coordinate as imageproc takes it.
fn signed(px: u64) -> i32 {
    i32::try_from(px).unwrap_or(i32::MAX)
}
