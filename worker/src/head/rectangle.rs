//! [`Rectangle`]: the smallest one around points, at any angle; [`span_at`]: where it lies on a line.

/// A position, x and y.
pub(super) type Position = (f64, f64);

/// A rectangle at any angle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rectangle {
    centre: Position,
    /// The direction of the first side, of length 1.
    along: Position,
    /// The lengths of the sides.
    sides: (f64, f64),
}

impl Rectangle {
    /// The rectangle of least area around points that are sorted by y, then by x, and are not all on one line.
    ///
    /// Of rectangles of the same area it is the one found first. Linear in points.
    ///
    /// Source: H. Freeman and R. Shapira, "Determining the minimum-area encasing rectangle for an arbitrary closed
    /// curve", Communications of the ACM 18(7), 1975: one of its sides lies on a side of the convex hull. The sides are
    /// gone through with the rotating calipers of G. Toussaint (1983).
    pub(super) fn around(points: &[(i64, i64)]) -> Option<Self> {
        let hull = convex_hull(points);
        let n = hull.len();
        if n < 3 {
            return None;
        }
        let mut smallest: Option<(f64, Self)> = None;
        // The corners of the hull that are farthest along a side, away from it and back along it.
        let (mut ahead, mut away, mut back) = (1, 1, 1);
        for side in 0..n {
            let from = hull[side];
            let along = minus(hull[(side + 1) % n], from);
            let inwards = (-along.1, along.0);
            ahead = farthest(&hull, ahead.max(side + 1), along);
            away = farthest(&hull, away.max(ahead), inwards);
            back = farthest(&hull, back.max(away), (-along.0, -along.1));
            let reach = |corner: usize, direction| dot(minus(hull[corner % n], from), direction);
            let rectangle = Self::on_side(
                from,
                along,
                [reach(back, along), reach(ahead, along)],
                reach(away, inwards),
            );
            let area = rectangle.sides.0 * rectangle.sides.1;
            if smallest.is_none_or(|(least, _)| area < least) {
                smallest = Some((area, rectangle));
            }
        }
        smallest.map(|(_, rectangle)| rectangle)
    }

    /// The rectangle on a side of the hull: how far it reaches along it and away from it, times the side's length.
    fn on_side(from: (i64, i64), side: (i64, i64), reach: [i64; 2], depth: i64) -> Self {
        let length = float(dot(side, side)).sqrt();
        let along = (float(side.0) / length, float(side.1) / length);
        let [back, ahead] = reach.map(|reach| float(reach) / length);
        let depth = float(depth) / length;
        let middle = f64::midpoint(back, ahead);
        Self {
            centre: (
                float(from.0) + along.0 * middle - along.1 * depth / 2.0,
                float(from.1) + along.1 * middle + along.0 * depth / 2.0,
            ),
            along,
            sides: (ahead - back, depth),
        }
    }

    /// The length of the shorter side.
    pub(super) fn shorter_side(&self) -> f64 {
        self.sides.0.min(self.sides.1)
    }

    /// Moves every side outwards by area times `ratio` by perimeter.
    pub(super) fn grown(&self, ratio: f64) -> Self {
        let (one, other) = self.sides;
        let distance = one * other * ratio / (2.0 * (one + other));
        Self {
            sides: (one + 2.0 * distance, other + 2.0 * distance),
            ..*self
        }
    }

    /// The corners, one after the other around it.
    pub(super) fn corners(&self) -> [Position; 4] {
        let (one, other) = (self.sides.0 / 2.0, self.sides.1 / 2.0);
        [(-one, -other), (one, -other), (one, other), (-one, other)].map(|(u, v)| {
            (
                self.centre.0 + u * self.along.0 - v * self.along.1,
                self.centre.1 + u * self.along.1 + v * self.along.0,
            )
        })
    }
}

/// Where the line at `y` meets a convex polygon of four corners, its border included: the least and the largest x.
pub(super) fn span_at(corners: &[Position; 4], y: f64) -> Option<(f64, f64)> {
    let mut span: Option<(f64, f64)> = None;
    let mut add = |x: f64| {
        span = Some(span.map_or((x, x), |(least, most)| (least.min(x), most.max(x))));
    };
    for (corner, from) in corners.iter().enumerate() {
        let to = corners[(corner + 1) % corners.len()];
        if y < from.1.min(to.1) || y > from.1.max(to.1) {
            continue;
        }
        if from.1 == to.1 {
            add(from.0);
            add(to.0);
        } else {
            add(from.0 + (to.0 - from.0) * (y - from.1) / (to.1 - from.1));
        }
    }
    span
}

/// The convex hull of points that are sorted by y, then by x: its corners, clockwise on the screen (y down).
///
/// Source: A. M. Andrew, "Another efficient algorithm for convex hulls in two dimensions", Information Processing
/// Letters 9(5), 1979.
fn convex_hull(points: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut hull = half_hull(points.iter());
    let other = half_hull(points.iter().rev());
    // Each half ends where the other one starts.
    hull.pop();
    hull.extend(other);
    hull.pop();
    hull
}

/// The side of the hull that turns right all the way, from the first point to the last.
fn half_hull<'a>(points: impl Iterator<Item = &'a (i64, i64)>) -> Vec<(i64, i64)> {
    let mut half: Vec<(i64, i64)> = Vec::new();
    for &point in points {
        while let [.., before, last] = half[..]
            && cross(minus(last, before), minus(point, last)) <= 0
        {
            half.pop();
        }
        half.push(point);
    }
    half
}

/// The corner that is farthest in a direction, found by going on from one for as long as it gets farther.
fn farthest(hull: &[(i64, i64)], mut corner: usize, direction: (i64, i64)) -> usize {
    let at = |corner: usize| hull[corner % hull.len()];
    while dot(minus(at(corner + 1), at(corner)), direction) > 0 {
        corner += 1;
    }
    corner
}

fn minus(one: (i64, i64), other: (i64, i64)) -> (i64, i64) {
    (one.0 - other.0, one.1 - other.1)
}

fn dot(one: (i64, i64), other: (i64, i64)) -> i64 {
    one.0 * other.0 + one.1 * other.1
}

/// Above 0 when `other` is to the right of `one` on the screen.
fn cross(one: (i64, i64), other: (i64, i64)) -> i64 {
    one.0 * other.1 - one.1 * other.0
}

#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, far beyond the largest map"
)]
fn float(number: i64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rotated_square_is_found_as_it_is() {
        let diamond = [(2, 0), (0, 2), (2, 2), (4, 2), (2, 4)];
        let rectangle = Rectangle::around(&diamond).expect("not on one line");
        let side = 8f64.sqrt();
        assert!((rectangle.sides.0 - side).abs() < 1e-12, "{rectangle:?}");
        assert!((rectangle.sides.1 - side).abs() < 1e-12, "{rectangle:?}");
        let mut corners = rectangle.corners();
        corners.sort_by(|one, other| (one.1 + one.0 / 9.0).total_cmp(&(other.1 + other.0 / 9.0)));
        for (found, expected) in
            corners
                .iter()
                .zip([(2.0, 0.0), (0.0, 2.0), (4.0, 2.0), (2.0, 4.0)])
        {
            let off = (found.0 - expected.0).abs() + (found.1 - expected.1).abs();
            assert!(off < 1e-12, "{corners:?}");
        }
    }

    #[test]
    fn growth_goes_outwards_on_all_sides() {
        let rectangle = Rectangle::around(&[(0, 0), (6, 0), (0, 4), (6, 4)]).expect("a rectangle");
        // 24 * 1.5 / 20
        let corners = rectangle.grown(1.5).corners();
        let (xs, ys) = (corners.map(|c| c.0), corners.map(|c| c.1));
        let most = |values: [f64; 4]| values.into_iter().fold(f64::MIN, f64::max);
        let least = |values: [f64; 4]| values.into_iter().fold(f64::MAX, f64::min);
        let found = [least(xs), least(ys), most(xs), most(ys)];
        for (found, expected) in found.into_iter().zip([-1.8, -1.8, 7.8, 5.8]) {
            assert!((found - expected).abs() < 1e-12, "{corners:?}");
        }
    }

    #[test]
    fn points_on_a_line_have_no_rectangle() {
        assert_eq!(Rectangle::around(&[(0, 0), (1, 1), (3, 3)]), None);
        assert_eq!(Rectangle::around(&[(5, 5), (5, 5)]), None);
        assert_eq!(Rectangle::around(&[]), None);
    }

    #[test]
    fn lines_meet_polygons_at_their_borders() {
        let diamond = [(2.0, 0.0), (4.0, 2.0), (2.0, 4.0), (0.0, 2.0)];
        for (y, expected) in [
            (-0.1, None),
            (0.0, Some((2.0, 2.0))),
            (0.5, Some((1.5, 2.5))),
            (2.0, Some((0.0, 4.0))),
            (4.1, None),
        ] {
            assert_eq!(span_at(&diamond, y), expected, "{y}");
        }
        let upright = [(0.0, 0.0), (3.0, 0.0), (3.0, 1.0), (0.0, 1.0)];
        assert_eq!(span_at(&upright, 1.0), Some((0.0, 3.0)));
    }

    /// The least area of rectangles in the direction of any two points.
    fn least_area(points: &[(i64, i64)]) -> f64 {
        let pairs = points
            .iter()
            .flat_map(|one| points.iter().map(|other| minus(*other, *one)));
        let areas = pairs.filter(|along| *along != (0, 0)).map(|along| {
            let reach = |direction| {
                let at = points.iter().map(|point| dot(*point, direction));
                at.clone().max().unwrap_or(0) - at.min().unwrap_or(0)
            };
            float(reach(along)) * float(reach((-along.1, along.0))) / float(dot(along, along))
        });
        areas.fold(f64::INFINITY, f64::min)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn no_rectangle_around_the_points_is_smaller(
            mut points in prop::collection::vec((0i64..12, 0i64..12), 3..25),
        ) {
            points.sort_unstable_by_key(|(x, y)| (*y, *x));
            if let Some(rectangle) = Rectangle::around(&points) {
                let area = rectangle.sides.0 * rectangle.sides.1;
                prop_assert!((area - least_area(&points)).abs() < 1e-9, "{rectangle:?}");
                for point in &points {
                    let (dx, dy) = (float(point.0) - rectangle.centre.0, float(point.1) - rectangle.centre.1);
                    let (u, v) = rectangle.along;
                    prop_assert!((dx * u + dy * v).abs() <= rectangle.sides.0 / 2.0 + 1e-9);
                    prop_assert!((dy * u - dx * v).abs() <= rectangle.sides.1 / 2.0 + 1e-9);
                }
            }
        }
    }
}
