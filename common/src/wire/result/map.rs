//! The maps that results are on the wire, and their way from and to the domain's types.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize, Serializer};

use super::{ReadError, bounds};
use crate::{
    job::Metadata,
    limits::VERSION,
    polygon::{BoundingBox, Point, Polygon, PolygonError, Ring},
    result::{ImageInfo, JobError, JobResult, ModelInfo, Object, Outcome, Stage, Timings},
    rle::Rle,
    subject::{JobId, Tenant},
};

/// The map of a result; `M` is the format's own type for any value.
#[derive(Serialize, Deserialize)]
pub(super) struct ResultMap<M> {
    v: u64,
    id: String,
    tenant: String,
    status: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<ModelMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<ObjectMap>>,
    #[serde(skip_serializing)]
    blob: Option<serde::de::IgnoredAny>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorMap>,
    #[serde(default)]
    timings_ms: TimingsMap,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<M>,
}

/// The part of a result that is about the image.
#[derive(Serialize)]
pub(super) struct PictureMap<'a> {
    file: &'a str,
    image: ImageMap,
    objects: Vec<ObjectMap>,
}

impl<'a> PictureMap<'a> {
    pub(super) fn of(file: &'a str, image: &ImageInfo, objects: &[Object]) -> Self {
        Self {
            file,
            image: ImageMap::from_image(image),
            objects: objects.iter().map(ObjectMap::from_object).collect(),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct ImageMap {
    width: u32,
    height: u32,
    format: String,
    orientation: u8,
}

#[derive(Serialize, Deserialize)]
struct ModelMap {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ErrorMap {
    code: String,
    message: String,
}

#[derive(Serialize, Deserialize)]
struct ObjectMap {
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<f64>,
    bbox: (u32, u32, u32, u32),
    area_px: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deviation_px: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    coco_rle: Option<RleMap>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    polygons: Vec<PolygonMap>,
}

/// As COCO's tools take it.
#[derive(Serialize, Deserialize)]
struct RleMap {
    /// Height, then width.
    size: (u32, u32),
    counts: String,
}

#[derive(Serialize, Deserialize)]
struct PolygonMap {
    exterior: Vec<(u32, u32)>,
    #[serde(default)]
    holes: Vec<Vec<(u32, u32)>>,
}

/// Milliseconds by stage, in order of time; unknown stages are skipped.
#[derive(Default)]
struct TimingsMap(Timings);

impl Serialize for TimingsMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0
                .iter()
                .map(|(stage, time)| (stage.as_str(), milliseconds(*time))),
        )
    }
}

impl<'de> Deserialize<'de> for TimingsMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by_name = BTreeMap::<String, f64>::deserialize(deserializer)?;
        let known = Stage::ALL.into_iter().filter_map(|stage| {
            let milliseconds = by_name.get(stage.as_str())?;
            let time = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
            Some((stage, time))
        });
        Ok(Self(known.collect()))
    }
}

/// Rounded to microseconds: finer is noise, and costs digits in JSON.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl<M> ResultMap<M> {
    pub(super) fn from_result(result: &JobResult, metadata: Option<M>) -> Self {
        let (objects, error) = match &result.outcome {
            Outcome::Ok(objects) => (
                Some(objects.iter().map(ObjectMap::from_object).collect()),
                None,
            ),
            Outcome::Error(error) => {
                let JobError { code, message } = error.clone();
                (
                    None,
                    Some(ErrorMap {
                        code: code.to_string(),
                        message,
                    }),
                )
            }
            Outcome::Expired | Outcome::Cancelled => (None, None),
        };
        Self {
            v: VERSION,
            id: result.id.to_string(),
            tenant: result.tenant.to_string(),
            status: result.outcome.status().to_owned(),
            image: result.image.as_ref().map(ImageMap::from_image),
            model: result.model.clone().map(
                |ModelInfo {
                     name,
                     version,
                     digest,
                 }| ModelMap {
                    name,
                    version,
                    digest,
                },
            ),
            objects,
            blob: None,
            error,
            timings_ms: TimingsMap(result.timings.clone()),
            attempt: result.attempt,
            worker: result.worker.clone(),
            trace_id: result.trace_id.clone(),
            metadata,
        }
    }

    pub(super) fn into_result(self, metadata: Option<rmpv::Value>) -> Result<JobResult, ReadError> {
        if self.v != VERSION {
            return Err(ReadError::Version(self.v));
        }
        let image = self.image.map(ImageMap::into_image);
        let outcome = match (self.status.as_str(), self.error) {
            ("ok", _) if self.blob.is_some() => return Err(ReadError::Blob),
            ("ok", _) => {
                let objects = self
                    .objects
                    .unwrap_or_default()
                    .into_iter()
                    .map(ObjectMap::into_object);
                let objects: Vec<Object> = objects.collect::<Result<_, PolygonError>>()?;
                bounds::check(image.as_ref(), &objects)?;
                Outcome::Ok(objects)
            }
            ("error", Some(ErrorMap { code, message })) => Outcome::Error(JobError {
                code: code.parse()?,
                message,
            }),
            ("expired", _) => Outcome::Expired,
            ("cancelled", _) => Outcome::Cancelled,
            (other, _) => return Err(ReadError::Status(other.to_owned())),
        };
        let metadata = match metadata {
            Some(rmpv::Value::Map(entries)) => Some(Metadata::from_entries(entries)),
            _ => None,
        };
        Ok(JobResult {
            id: JobId::from_broker(&self.id).ok_or(ReadError::Id(self.id))?,
            tenant: self.tenant.parse::<Tenant>()?,
            outcome,
            image,
            model: self.model.map(
                |ModelMap {
                     name,
                     version,
                     digest,
                 }| ModelInfo {
                    name,
                    version,
                    digest,
                },
            ),
            timings: self.timings_ms.0,
            attempt: self.attempt,
            worker: self.worker,
            trace_id: self.trace_id,
            metadata,
        })
    }
}

impl ImageMap {
    fn from_image(image: &ImageInfo) -> Self {
        Self {
            width: image.width_px,
            height: image.height_px,
            format: image.format.clone(),
            orientation: image.orientation,
        }
    }

    fn into_image(self) -> ImageInfo {
        ImageInfo {
            width_px: self.width,
            height_px: self.height,
            format: self.format,
            orientation: self.orientation,
        }
    }
}

impl ObjectMap {
    fn from_object(object: &Object) -> Self {
        let Object {
            label,
            class_id,
            instance,
            score,
            bbox,
            area_px,
            deviation_px,
            coco_rle,
            polygons,
        } = object;
        Self {
            label: label.clone(),
            class_id: *class_id,
            instance: *instance,
            score: *score,
            bbox: (bbox.x, bbox.y, bbox.width, bbox.height),
            area_px: *area_px,
            deviation_px: *deviation_px,
            coco_rle: coco_rle.as_ref().map(RleMap::from_rle),
            polygons: polygons.iter().map(PolygonMap::from_polygon).collect(),
        }
    }

    fn into_object(self) -> Result<Object, PolygonError> {
        let Self {
            label,
            class_id,
            instance,
            score,
            bbox: (x, y, width, height),
            area_px,
            deviation_px,
            coco_rle,
            polygons,
        } = self;
        let polygons = polygons
            .into_iter()
            .map(PolygonMap::into_polygon)
            .collect::<Result<_, _>>()?;
        Ok(Object {
            label,
            class_id,
            instance,
            score,
            bbox: BoundingBox {
                x,
                y,
                width,
                height,
            },
            area_px,
            deviation_px,
            coco_rle: coco_rle.map(RleMap::into_rle),
            polygons,
        })
    }
}

impl RleMap {
    fn from_rle(rle: &Rle) -> Self {
        Self {
            size: (rle.height_px, rle.width_px),
            counts: rle.counts.clone(),
        }
    }

    fn into_rle(self) -> Rle {
        let (height_px, width_px) = self.size;
        Rle {
            width_px,
            height_px,
            counts: self.counts,
        }
    }
}

impl PolygonMap {
    fn from_polygon(polygon: &Polygon) -> Self {
        let pairs = |ring: &Ring| {
            ring.vertices()
                .iter()
                .map(|point| (point.x, point.y))
                .collect()
        };
        Self {
            exterior: pairs(polygon.exterior()),
            holes: polygon.holes().iter().map(pairs).collect(),
        }
    }

    fn into_polygon(self) -> Result<Polygon, PolygonError> {
        let ring = |pairs: Vec<(u32, u32)>| {
            Ring::new(pairs.into_iter().map(|(x, y)| Point { x, y }).collect())
        };
        let holes = self.holes.into_iter().map(ring).collect::<Result<_, _>>()?;
        Polygon::new(ring(self.exterior)?, holes)
    }
}
