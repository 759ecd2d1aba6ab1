//! GeoJSON: a FeatureCollection with a MultiPolygon for each object.
//!
//! Coordinates are pixels with y down, as image tools have it; read with y up, exteriors run counter-clockwise, as
//! GeoJSON wants it.
//!
//! Source: RFC 7946, sections 3.1.6, 3.1.7, 3.2, 3.3; `objectType` and `classification` are what QuPath's
//! `PathObjectTypeAdapters` reads.

use serde_json::{Value, json};

use super::{Picture, name};
use crate::{
    polygon::{Polygon, Ring},
    result::Object,
};

pub(super) fn write(picture: &Picture<'_>) -> String {
    let features: Vec<Value> = picture.objects.iter().map(feature).collect();
    // Other members are allowed (section 6.1).
    let file = picture.file_name;
    json!({ "type": "FeatureCollection", "file": file, "features": features }).to_string()
}

fn feature(object: &Object) -> Value {
    let coordinates: Vec<Value> = object.polygons.iter().map(polygon).collect();
    let mut properties = json!({
        "objectType": "annotation",
        "classification": { "name": name(object) },
        "area_px": object.area_px,
    });
    let told = [
        ("label", object.label.as_deref().map(Value::from)),
        ("class_id", object.class_id.map(Value::from)),
        ("score", object.score.map(Value::from)),
        ("deviation_px", object.deviation_px.map(Value::from)),
    ];
    for (key, value) in told {
        if let Some(value) = value {
            properties[key] = value;
        }
    }
    let mut feature = json!({
        "type": "Feature",
        "properties": properties,
        "geometry": { "type": "MultiPolygon", "coordinates": coordinates },
    });
    if let Some(instance) = object.instance {
        feature["id"] = instance.into();
    }
    feature
}

fn polygon(polygon: &Polygon) -> Value {
    polygon.rings().map(ring).collect()
}

/// The first position is repeated at the end.
fn ring(ring: &Ring) -> Value {
    let vertices = ring.vertices();
    let closed = vertices.iter().chain(&vertices[..1]);
    closed.map(|p| json!([p.x, p.y])).collect()
}
