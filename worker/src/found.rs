//! What a model found in an image ([`Found`]), and its outlines.
//!
//! Pure and synchronous. Masks are of the image's size, or placed in it; nothing here knows what a model is.

use segfleet_common::result::Object;

use crate::{
    mask::{Mask, PlacedMask},
    outline::{OutlineError, OutlineOptions, outline_mask, outline_placed},
};

/// What a model found, in pixels of the upright image.
#[derive(Debug)]
pub enum Found {
    /// Its foreground, of the image's size; the components are the objects.
    Foreground(Mask),
    /// One mask for each class; the components of each are objects of that class.
    Classes(Vec<ClassMask>),
    /// Objects, each with a mask of its own; they may overlap.
    Instances(Vec<Instance>),
}

/// The pixels of one class.
#[derive(Debug)]
pub struct ClassMask {
    /// The model's number for the class.
    pub class_id: u32,
    /// Its name, where the model has one.
    pub label: Option<String>,
    /// Which pixels are of the class, of the image's size.
    pub mask: Mask,
}

/// One object.
#[derive(Debug)]
pub struct Instance {
    /// Which pixels are its own.
    pub placed: PlacedMask,
    /// The model's number for its class, where there are classes.
    pub class_id: Option<u32>,
    /// The class' name, where the model has one.
    pub label: Option<String>,
    /// How sure the model is, 0 to 1.
    pub score: f64,
}

/// Traces the outlines of all that was found.
///
/// Output: components in order of their first pixel in reading order, also over several classes (those that share
/// it, in the order of the classes); instances by falling score.
///
/// # Errors
/// [`OutlineError`] for more objects, vertices or corners than allowed, of all classes together.
pub fn outline_found(found: &Found, options: &OutlineOptions) -> Result<Vec<Object>, OutlineError> {
    match found {
        Found::Foreground(mask) => outline_mask(mask, options),
        Found::Classes(classes) => outline_classes(classes, options),
        Found::Instances(instances) => outline_instances(instances, options),
    }
}

fn outline_classes(
    classes: &[ClassMask],
    options: &OutlineOptions,
) -> Result<Vec<Object>, OutlineError> {
    let mut all: Vec<Object> = Vec::new();
    let mut n_vertices = 0;
    for class in classes {
        let rest = OutlineOptions {
            max_vertices: options.max_vertices - n_vertices,
            ..*options
        };
        let objects = outline_mask(&class.mask, &rest).map_err(|error| whole(error, options))?;
        n_vertices += objects.iter().map(Object::n_vertices).sum::<usize>();
        all.extend(objects.into_iter().map(|object| Object {
            label: class.label.clone(),
            class_id: Some(class.class_id),
            ..object
        }));
        check_count(all.len(), options)?;
    }
    all.sort_by_key(first_pixel);
    Ok(all)
}

/// The error with the limit of the whole, not of what was left for one class.
fn whole(error: OutlineError, options: &OutlineOptions) -> OutlineError {
    match error {
        OutlineError::TooManyVertices { .. } => OutlineError::TooManyVertices {
            limit: options.max_vertices,
        },
        error @ (OutlineError::TooManyObjects { .. }
        | OutlineError::TooManyCorners { .. }
        | OutlineError::TooManyRuns { .. }) => error,
    }
}

fn check_count(found: usize, options: &OutlineOptions) -> Result<(), OutlineError> {
    if found <= options.max_objects {
        return Ok(());
    }
    Err(OutlineError::TooManyObjects {
        found,
        min_area_px: options.min_area_px,
        limit: options.max_objects,
    })
}

/// Row and column of an object's first pixel in reading order: its first vertex.
fn first_pixel(object: &Object) -> (u32, u32) {
    let first = object.polygons.first();
    let first = first.and_then(|polygon| polygon.exterior().vertices().first());
    first.map_or((0, 0), |point| (point.y, point.x))
}

fn outline_instances(
    instances: &[Instance],
    options: &OutlineOptions,
) -> Result<Vec<Object>, OutlineError> {
    let masks: Vec<&PlacedMask> = instances.iter().map(|instance| &instance.placed).collect();
    let traced = outline_placed(&masks, options)?;
    let mut objects: Vec<Object> = traced
        .into_iter()
        .map(|(index, object)| {
            let instance = &instances[index];
            Object {
                label: instance.label.clone(),
                class_id: instance.class_id,
                score: Some(instance.score),
                ..object
            }
        })
        .collect();
    let score = |object: &Object| object.score.unwrap_or(0.0);
    objects.sort_by(|one, other| score(other).total_cmp(&score(one)));
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use segfleet_common::job::Connectivity;

    use super::*;

    const OPTIONS: OutlineOptions = OutlineOptions {
        connectivity: Connectivity::Eight,
        min_area_px: 1,
        max_objects: 3,
        max_vertices: 12,
        max_corners: 100,
    };

    /// `#` is foreground.
    fn mask(row: &str) -> Mask {
        let bytes = row.as_bytes();
        let width = u32::try_from(bytes.len()).expect("a short row");
        Mask::from_fn(width, 1, |x, _| bytes[x as usize] == b'#')
    }

    fn class(class_id: u32, row: &str) -> ClassMask {
        ClassMask {
            class_id,
            label: (class_id == 2).then(|| "cat".to_owned()),
            mask: mask(row),
        }
    }

    #[test]
    fn the_components_of_all_classes_are_in_reading_order() {
        let found = Found::Classes(vec![class(1, ".#..#"), class(2, "#....")]);
        let objects = outline_found(&found, &OPTIONS).expect("within the limits");
        let found: Vec<_> = objects
            .iter()
            .map(|object| (object.class_id, object.label.as_deref(), object.bbox.x))
            .collect();
        assert_eq!(
            found,
            [
                (Some(2), Some("cat"), 0),
                (Some(1), None, 1),
                (Some(1), None, 4)
            ]
        );
    }

    #[test]
    fn the_limits_are_those_of_all_classes_together() {
        let three = || class(1, "#.#.#");
        let outlined = |classes| outline_found(&Found::Classes(classes), &OPTIONS);
        assert_eq!(outlined(vec![three()]).map(|objects| objects.len()), Ok(3));
        let none_left = outlined(vec![three(), class(2, ".#...")]);
        assert_eq!(none_left, Err(OutlineError::TooManyVertices { limit: 12 }));
    }

    #[test]
    fn instances_come_by_falling_score() {
        let instance = |left, score| Instance {
            placed: PlacedMask {
                mask: mask("##"),
                left,
                top: 7,
            },
            class_id: None,
            label: None,
            score,
        };
        let found = Found::Instances(vec![instance(3, 0.5), instance(9, 0.75)]);
        let objects = outline_found(&found, &OPTIONS).expect("within the limits");
        let found: Vec<_> = objects
            .iter()
            .map(|object| (object.bbox.x, object.bbox.y, object.score))
            .collect();
        assert_eq!(found, [(9, 7, Some(0.75)), (3, 7, Some(0.5))]);
    }
}
