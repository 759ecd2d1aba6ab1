//! Results on the wire: [`encode_result`], [`read_result`], [`result_to_json`].

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::{
    job::Metadata,
    limits::VERSION,
    polygon::{BoundingBox, Point, Polygon, PolygonError, Ring},
    result::{
        ImageInfo, JobError, JobResult, ModelInfo, Object, Outcome, Stage, Timings,
        UnknownErrorCode,
    },
    subject::{JobId, Tenant, TokenError},
    wire::{JSON, MSGPACK, media_type, value},
};

/// The two forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultFormat {
    /// A MessagePack map.
    Msgpack,
    /// The same map in JSON.
    Json,
}

impl ResultFormat {
    /// The form that a job's header `Accept` asks for: MessagePack unless it names JSON.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let ranges = accept.into_iter().flat_map(|header| header.split(','));
        let wants_json = ranges.map(media_type).any(|range| range == JSON);
        if wants_json {
            Self::Json
        } else {
            Self::Msgpack
        }
    }

    /// The form that a result's header `Content-Type` declares.
    ///
    /// # Errors
    /// [`ReadError::ContentType`] when it is neither.
    pub fn declared(content_type: Option<&str>) -> Result<Self, ReadError> {
        match content_type.map(media_type).as_deref() {
            None | Some(MSGPACK) => Ok(Self::Msgpack),
            Some(JSON) => Ok(Self::Json),
            Some(other) => Err(ReadError::ContentType(other.to_owned())),
        }
    }

    /// The media type of the form.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Msgpack => MSGPACK,
            Self::Json => JSON,
        }
    }
}

/// A result message that cannot be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// Neither MessagePack nor JSON is declared.
    #[error("content type {0:?} is neither {MSGPACK} nor {JSON}")]
    ContentType(String),
    /// The bytes are not the MessagePack expected.
    #[error("not a result in MessagePack: {0}")]
    Msgpack(#[from] rmp_serde::decode::Error),
    /// The bytes are not the JSON expected.
    #[error("not a result in JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer or older message.
    #[error("result version {0} is not supported, this program reads {VERSION}")]
    Version(u64),
    /// A status that is none of the contract's.
    #[error("result status {0:?} is unknown")]
    Status(String),
    /// The id is not a token of a subject.
    #[error("result id {0:?} is not a token of a subject")]
    Id(String),
    /// The tenant is not a token.
    #[error(transparent)]
    Tenant(#[from] TokenError),
    /// An error code that is none of the contract's.
    #[error(transparent)]
    Code(#[from] UnknownErrorCode),
    /// An outline is none.
    #[error(transparent)]
    Polygon(#[from] PolygonError),
    /// The objects are too large for one message and travel in chunks.
    #[error("the objects of this result are in chunks, which this version does not read")]
    Blob,
}

/// Writes a result.
///
/// # Panics
/// Never: a map of plain values can always be written to memory.
#[must_use]
pub fn encode_result(result: &JobResult, format: ResultFormat) -> Vec<u8> {
    let written = match format {
        ResultFormat::Msgpack => {
            let metadata = result
                .metadata
                .as_ref()
                .map(|map| rmpv::Value::Map(map.entries().to_vec()));
            rmp_serde::to_vec_named(&ResultMap::from_result(result, metadata)).ok()
        }
        ResultFormat::Json => {
            let metadata = result
                .metadata
                .as_ref()
                .map(|map| value::map_to_json(map.entries()));
            serde_json::to_vec(&ResultMap::from_result(result, metadata)).ok()
        }
    };
    written.expect("a map of plain values can always be written")
}

/// Writes a result as one line of JSON.
///
/// # Panics
/// Never: JSON is UTF-8.
#[must_use]
pub fn result_to_json(result: &JobResult) -> String {
    String::from_utf8(encode_result(result, ResultFormat::Json)).expect("JSON is UTF-8")
}

/// Reads a result by its declared content type, never by what was asked for.
///
/// # Errors
/// [`ReadError`] says what is not as the contract has it.
pub fn read_result(content_type: Option<&str>, payload: &[u8]) -> Result<JobResult, ReadError> {
    match ResultFormat::declared(content_type)? {
        ResultFormat::Msgpack => {
            let map: ResultMap<rmpv::Value> = rmp_serde::from_slice(payload)?;
            let metadata = map.metadata.clone();
            map.into_result(metadata)
        }
        ResultFormat::Json => {
            let map: ResultMap<serde_json::Value> = serde_json::from_slice(payload)?;
            let metadata = map.metadata.clone().map(value::from_json);
            map.into_result(metadata)
        }
    }
}

/// The map of a result; `M` is the format's own type for any value.
#[derive(Serialize, Deserialize)]
struct ResultMap<M> {
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
    metadata: Option<M>,
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
    score: Option<f64>,
    bbox: (u32, u32, u32, u32),
    area_px: u64,
    #[serde(default)]
    polygons: Vec<PolygonMap>,
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
        let by_name = std::collections::BTreeMap::<String, f64>::deserialize(deserializer)?;
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
    fn from_result(result: &JobResult, metadata: Option<M>) -> Self {
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
            image: result.image.clone().map(|image| ImageMap {
                width: image.width_px,
                height: image.height_px,
                format: image.format,
                orientation: image.orientation,
            }),
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

    fn into_result(self, metadata: Option<rmpv::Value>) -> Result<JobResult, ReadError> {
        if self.v != VERSION {
            return Err(ReadError::Version(self.v));
        }
        let outcome = match (self.status.as_str(), self.error) {
            ("ok", _) if self.blob.is_some() => return Err(ReadError::Blob),
            ("ok", _) => {
                let objects = self
                    .objects
                    .unwrap_or_default()
                    .into_iter()
                    .map(ObjectMap::into_object);
                Outcome::Ok(objects.collect::<Result<_, PolygonError>>()?)
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
            image: self.image.map(|image| ImageInfo {
                width_px: image.width,
                height_px: image.height,
                format: image.format,
                orientation: image.orientation,
            }),
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

impl ObjectMap {
    fn from_object(object: &Object) -> Self {
        let Object {
            label,
            class_id,
            score,
            bbox,
            area_px,
            polygons,
        } = object;
        Self {
            label: label.clone(),
            class_id: *class_id,
            score: *score,
            bbox: (bbox.x, bbox.y, bbox.width, bbox.height),
            area_px: *area_px,
            polygons: polygons.iter().map(PolygonMap::from_polygon).collect(),
        }
    }

    fn into_object(self) -> Result<Object, PolygonError> {
        let Self {
            label,
            class_id,
            score,
            bbox: (x, y, width, height),
            area_px,
            polygons,
        } = self;
        let polygons = polygons
            .into_iter()
            .map(PolygonMap::into_polygon)
            .collect::<Result<_, _>>()?;
        Ok(Object {
            label,
            class_id,
            score,
            bbox: BoundingBox {
                x,
                y,
                width,
                height,
            },
            area_px,
            polygons,
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::ErrorCode;

    fn result(outcome: Outcome) -> JobResult {
        JobResult {
            id: "j1".parse().expect("a token"),
            tenant: Tenant::default(),
            outcome,
            image: Some(ImageInfo {
                width_px: 2,
                height_px: 1,
                format: "png".to_owned(),
                orientation: 1,
            }),
            model: Some(ModelInfo {
                name: "mock".to_owned(),
                version: "1".to_owned(),
                digest: None,
            }),
            timings: Timings::from([(Stage::Queue, Duration::from_micros(1500))]),
            attempt: Some(1),
            worker: Some("w".to_owned()),
            trace_id: None,
            metadata: Some(Metadata::text("file", "a.png")),
        }
    }

    fn square() -> Object {
        let corners = [(0, 0), (1, 0), (1, 1), (0, 1)].map(|(x, y)| Point { x, y });
        let ring = Ring::new(corners.to_vec()).expect("a square");
        Object {
            label: None,
            class_id: None,
            score: None,
            bbox: BoundingBox {
                x: 0,
                y: 0,
                width: 1,
                height: 1,
            },
            area_px: 1,
            polygons: vec![Polygon::new(ring, vec![]).expect("clockwise")],
        }
    }

    #[test]
    fn golden_bytes() {
        let golden = b"\x8b\xa1v\x01\xa2id\xa2j1\xa6tenant\xa6public\xa6status\xa2ok\
            \xa5image\x84\xa5width\x02\xa6height\x01\xa6format\xa3png\xaborientation\x01\
            \xa5model\x82\xa4name\xa4mock\xa7version\xa11\
            \xa7objects\x91\x83\xa4bbox\x94\0\0\x01\x01\xa7area_px\x01\
            \xa8polygons\x91\x82\xa8exterior\x94\x92\0\0\x92\x01\0\x92\x01\x01\x92\0\x01\xa5holes\x90\
            \xaatimings_ms\x81\xa5queue\xcb\x3f\xf8\0\0\0\0\0\0\
            \xa7attempt\x01\xa6worker\xa1w\xa8metadata\x81\xa4file\xa5a.png";
        let result = result(Outcome::Ok(vec![square()]));
        let written = encode_result(&result, ResultFormat::Msgpack);
        assert_eq!(written, golden);
        assert_eq!(read_result(None, &written).expect("a result"), result);
    }

    #[test]
    fn golden_json() {
        let result = result(Outcome::Ok(vec![square()]));
        let golden = concat!(
            r#"{"v":1,"id":"j1","tenant":"public","status":"ok","#,
            r#""image":{"width":2,"height":1,"format":"png","orientation":1},"#,
            r#""model":{"name":"mock","version":"1"},"#,
            r#""objects":[{"bbox":[0,0,1,1],"area_px":1,"#,
            r#""polygons":[{"exterior":[[0,0],[1,0],[1,1],[0,1]],"holes":[]}]}],"#,
            r#""timings_ms":{"queue":1.5},"attempt":1,"worker":"w","metadata":{"file":"a.png"}}"#,
        );
        assert_eq!(result_to_json(&result), golden);
        assert_eq!(
            read_result(Some(JSON), golden.as_bytes()).expect("a result"),
            result
        );
    }

    #[test]
    fn every_outcome_survives_both_forms() {
        let mut outcomes = vec![Outcome::Ok(vec![]), Outcome::Expired, Outcome::Cancelled];
        outcomes.extend(ErrorCode::ALL.map(|code| Outcome::Error(JobError::new(code, "why"))));
        for outcome in outcomes {
            let result = result(outcome);
            for format in [ResultFormat::Msgpack, ResultFormat::Json] {
                let read =
                    read_result(Some(format.content_type()), &encode_result(&result, format));
                assert_eq!(read.expect("a result"), result);
            }
        }
    }

    #[test]
    fn accept_asks_and_content_type_tells() {
        let asked = [
            (None, ResultFormat::Msgpack),
            (Some("*/*"), ResultFormat::Msgpack),
            (Some("Application/JSON"), ResultFormat::Json),
            (
                Some("text/html, application/json;q=0.5"),
                ResultFormat::Json,
            ),
        ];
        for (accept, expected) in asked {
            assert_eq!(ResultFormat::accepted(accept), expected, "{accept:?}");
        }
        let error = ResultFormat::declared(Some("text/html")).expect_err("neither");
        assert_eq!(
            error.to_string(),
            "content type \"text/html\" is neither application/msgpack nor application/json"
        );
    }

    #[test]
    fn a_newer_result_is_refused() {
        let text = r#"{"v":2,"id":"j1","tenant":"public","status":"ok"}"#;
        let error = read_result(Some(JSON), text.as_bytes()).expect_err("a newer version");
        assert_eq!(
            error.to_string(),
            "result version 2 is not supported, this program reads 1"
        );
    }
}
