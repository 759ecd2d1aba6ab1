//! [`Thinning`]: the vertices of one object while they become fewer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    ops::Range,
};

use segfleet_common::polygon::{Point, Polygon, Ring};

use super::{Simplify, bounds, grid::Grid};

/// The vertices of an object's rings, of which some are gone.
#[derive(Debug)]
pub(super) struct Thinning {
    /// All vertices there were, ring after ring.
    points: Vec<Point>,
    vertices: Vec<Vertex>,
    rings: Vec<RingState>,
    grid: Grid,
    /// The next steps, cheapest first; out of date where a vertex has changed since.
    steps: BinaryHeap<Reverse<Step>>,
    /// For each vertex that is in the way of others, those others, as the steps that wait.
    waiting: HashMap<u32, Vec<Step>>,
    /// Vertices left.
    n_vertices: usize,
    /// Rings left.
    n_rings: usize,
    /// Square of the largest cost of a ring that was left out.
    dropped_px2: f64,
}

/// A vertex and its neighbours on its ring.
#[derive(Debug, Clone, Copy)]
struct Vertex {
    ring: u32,
    previous: u32,
    next: u32,
    /// How often its neighbours have changed.
    version: u32,
    is_gone: bool,
}

#[derive(Debug)]
struct RingState {
    /// Where its vertices are.
    range: Range<u32>,
    n_vertices: usize,
}

/// Something that can be taken away. Ordered by what comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    /// Costs, which are squares, within a quarter of each other are the same here, and then the shorter line comes first: so lines grow
    /// evenly, and no vertex is measured more often than a few times for each doubling.
    level: u64,
    /// Of a vertex, how many are gone already and would be measured again; of a ring, its shorter side.
    length: u32,
    what: What,
    /// The bits of the cost: the square of a distance in pixels.
    cost_bits: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Vertex { vertex: u32, version: u32 },
    Ring(u32),
}

impl Step {
    fn new(cost_px2: f64, length: u32, what: What) -> Self {
        // The bits of positive numbers are ordered as the numbers are; left are the exponent and two bits more.
        let cost_bits = cost_px2.to_bits();
        Self {
            level: cost_bits >> (f64::MANTISSA_DIGITS - 1 - 2),
            length,
            what,
            cost_bits,
        }
    }

    fn cost_px2(&self) -> f64 {
        f64::from_bits(self.cost_bits)
    }
}

impl Thinning {
    pub(super) fn of(polygons: &[Polygon]) -> Self {
        let rings: Vec<&Ring> = polygons.iter().flat_map(Polygon::rings).collect();
        let mut points = Vec::new();
        let mut vertices = Vec::new();
        let mut states = Vec::new();
        for (ring, index) in rings.iter().zip(0..) {
            let start = index_of(points.len());
            points.extend_from_slice(ring.vertices());
            let end = index_of(points.len());
            vertices.extend((start..end).map(|vertex| Vertex {
                ring: index,
                previous: if vertex == start { end - 1 } else { vertex - 1 },
                next: if vertex + 1 == end { start } else { vertex + 1 },
                version: 0,
                is_gone: false,
            }));
            states.push(RingState {
                range: start..end,
                n_vertices: ring.vertices().len(),
            });
        }
        Self {
            grid: Grid::of(&points),
            n_vertices: points.len(),
            n_rings: states.len(),
            points,
            vertices,
            rings: states,
            steps: BinaryHeap::new(),
            waiting: HashMap::new(),
            dropped_px2: 0.0,
        }
    }

    /// Takes away what costs no more than the tolerance, and more while there are too many vertices. Takes a few times
    /// as long as sorting the vertices; up to about their number to the power of 1.5 where long lines lie in each other.
    pub(super) fn run(&mut self, wanted: &Simplify) {
        let tolerance_px2 = wanted.tolerance_px * wanted.tolerance_px;
        let most = wanted.max_vertices.unwrap_or(usize::MAX);
        (0..index_of(self.points.len())).for_each(|vertex| self.offer(vertex));
        (0..index_of(self.rings.len())).for_each(|ring| self.offer_ring(ring));
        while let Some(Reverse(step)) = self.steps.pop() {
            let is_too_many = self.n_vertices > most;
            if step.cost_px2() > tolerance_px2 && !is_too_many {
                continue;
            }
            match step.what {
                What::Vertex { vertex, version } => {
                    let state = self.vertices[vertex as usize];
                    if !state.is_gone && state.version == version {
                        self.remove_or_wait(vertex, step);
                    }
                }
                // What lies in a ring is smaller and went before it; the last ring is the largest exterior.
                What::Ring(ring) if is_too_many && self.n_rings > 1 => {
                    self.remove_ring(ring);
                    self.dropped_px2 = self.dropped_px2.max(step.cost_px2());
                }
                What::Ring(_) => {}
            }
        }
    }

    /// The largest cost of what was taken away, in pixels.
    pub(super) fn deviation_px(&self) -> f64 {
        let left = (0..index_of(self.points.len()))
            .filter(|vertex| !self.vertices[*vertex as usize].is_gone);
        let costs = left.map(|from| self.cost_px2(from, self.vertices[from as usize].next));
        costs.fold(self.dropped_px2, f64::max).sqrt()
    }

    /// What is left of each ring; `None` for those that were left out.
    pub(super) fn rings(&self) -> impl Iterator<Item = Option<Vec<Point>>> {
        self.rings.iter().map(|ring| {
            let left = ring
                .range
                .clone()
                .filter(|vertex| !self.vertices[*vertex as usize].is_gone);
            let points: Vec<Point> = left.map(|vertex| self.points[vertex as usize]).collect();
            (!points.is_empty()).then_some(points)
        })
    }

    /// Makes a vertex's removal one of the next steps, unless its ring would be no ring any more.
    fn offer(&mut self, vertex: u32) {
        let Vertex {
            ring,
            previous,
            next,
            version,
            ..
        } = self.vertices[vertex as usize];
        if self.rings[ring as usize].n_vertices > 3 {
            let n_between = index_of(self.between(previous, next).count());
            let cost_px2 = self.cost_px2(previous, next);
            let what = What::Vertex { vertex, version };
            self.steps
                .push(Reverse(Step::new(cost_px2, n_between, what)));
        }
    }

    /// Makes leaving out a ring one of the next steps. No pixel in it is farther from it than the cost.
    fn offer_ring(&mut self, ring: u32) {
        let range = self.rings[ring as usize].range.clone();
        let points = &self.points[range.start as usize..range.end as usize];
        let (min, max) = bounds(points);
        let side_px = (max.x - min.x).min(max.y - min.y);
        let cost_px = f64::from(side_px) / 2.0;
        // Of two of about the same cost the smaller one comes first: it may lie in the other.
        let step = Step::new(cost_px * cost_px, side_px, What::Ring(ring));
        self.steps.push(Reverse(step));
    }

    /// The square of the largest distance, from the line between two vertices of a ring, of those between them.
    fn cost_px2(&self, from: u32, to: u32) -> f64 {
        let line = (self.points[from as usize], self.points[to as usize]);
        self.between(from, to)
            .map(|vertex| distance_px2(self.points[vertex as usize], line))
            .fold(0.0, f64::max)
    }

    /// The vertices that there were between two of a ring.
    fn between(&self, from: u32, to: u32) -> impl Iterator<Item = u32> {
        let ring = &self.rings[self.vertices[from as usize].ring as usize].range;
        let (end, start) = if from < to {
            (to, to)
        } else {
            (ring.end, ring.start)
        };
        (from + 1..end).chain(start..to)
    }

    fn remove_or_wait(&mut self, vertex: u32, step: Step) {
        if self.rings[self.vertices[vertex as usize].ring as usize].n_vertices <= 3 {
            return;
        }
        if let Some(obstacle) = self.find_obstacle(vertex) {
            self.waiting.entry(obstacle).or_default().push(step);
            return;
        }
        let Vertex { previous, next, .. } = self.vertices[vertex as usize];
        self.vertices[previous as usize].next = next;
        self.vertices[next as usize].previous = previous;
        self.remove(vertex);
        for neighbour in [previous, next] {
            self.vertices[neighbour as usize].version += 1;
            self.offer(neighbour);
        }
    }

    fn remove_ring(&mut self, ring: u32) {
        let left = self.rings[ring as usize].range.clone();
        for vertex in left {
            if !self.vertices[vertex as usize].is_gone {
                self.remove(vertex);
            }
        }
        self.n_rings -= 1;
    }

    /// Takes a vertex away; who waited for that is tried again.
    fn remove(&mut self, vertex: u32) {
        let state = &mut self.vertices[vertex as usize];
        state.is_gone = true;
        self.rings[state.ring as usize].n_vertices -= 1;
        self.n_vertices -= 1;
        let waiting = self.waiting.remove(&vertex).unwrap_or_default();
        self.steps.extend(waiting.into_iter().map(Reverse));
    }

    /// A vertex that would be on the wrong side, or on the line, if `vertex` were taken away.
    ///
    /// Without one no edge crosses the new one: it would have to end in the triangle, or to cross one of the two edges
    /// that are taken away. Where another ring touches `from` or `to`, its edges there would cross them, too, unless they
    /// lead away or run along the new one.
    fn find_obstacle(&self, vertex: u32) -> Option<u32> {
        let Vertex { previous, next, .. } = self.vertices[vertex as usize];
        let [from, tip, to] = [previous, vertex, next].map(|v| self.points[v as usize]);
        let others = self.grid.near([from, tip, to]).filter(|other| {
            ![previous, vertex, next].contains(other) && !self.vertices[*other as usize].is_gone
        });
        let mut obstacles = others.filter(|&other| {
            let at = self.points[other as usize];
            if at == from {
                // Another ring touches here; its edges only matter if one would be doubled.
                let Vertex { previous, next, .. } = self.vertices[other as usize];
                [previous, next]
                    .iter()
                    .any(|end| self.points[*end as usize] == to)
            } else {
                at != to && is_within(at, [from, tip, to])
            }
        });
        obstacles.next()
    }
}

/// Whether a point is inside a triangle or on its border.
pub(super) fn is_within(point: Point, [a, b, c]: [Point; 3]) -> bool {
    let turns = [(a, b), (b, c), (c, a)].map(|(from, to)| cross(from, to, point).signum());
    // On a triangle that is only a line every turn is 0 for all points of the line: those between count.
    if turns == [0; 3] {
        let (min, max) = bounds(&[a, b, c]);
        return (min.x..=max.x).contains(&point.x) && (min.y..=max.y).contains(&point.y);
    }
    !(turns.contains(&1) && turns.contains(&-1))
}

/// Positive where `point` lies on the right of the way from `from` to `to` (y down).
fn cross(from: Point, to: Point, point: Point) -> i128 {
    let sides = |p: Point| {
        (
            i128::from(p.x) - i128::from(from.x),
            i128::from(p.y) - i128::from(from.y),
        )
    };
    let ((to_x, to_y), (x, y)) = (sides(to), sides(point));
    to_x * y - to_y * x
}

/// The square of the distance of a point from a line between two other points.
fn distance_px2(point: Point, (from, to): (Point, Point)) -> f64 {
    let sides = |p: Point| {
        (
            f64::from(p.x) - f64::from(from.x),
            f64::from(p.y) - f64::from(from.y),
        )
    };
    let ((to_x, to_y), (x, y)) = (sides(to), sides(point));
    let length_px2 = to_x * to_x + to_y * to_y;
    let along = x * to_x + y * to_y;
    if along <= 0.0 {
        x * x + y * y
    } else if along >= length_px2 {
        (x - to_x).powi(2) + (y - to_y).powi(2)
    } else {
        (to_x * y - to_y * x).powi(2) / length_px2
    }
}

fn index_of(length: usize) -> u32 {
    u32::try_from(length).expect("far fewer vertices than 2^32 are kept")
}
