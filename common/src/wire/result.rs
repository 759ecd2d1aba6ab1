//! Results on the wire: [`encode_result`], [`read_result`], [`result_to_json`].

mod bounds;
mod map;

use serde::Deserialize;
use thiserror::Error;

use self::map::{PictureMap, ResultMap};
use crate::{
    limits::VERSION,
    polygon::PolygonError,
    result::{ImageInfo, JobResult, Object, UnknownErrorCode},
    subject::TokenError,
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
    /// The objects are not those of an image.
    #[error("not a result: {0}")]
    Bounds(String),
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

/// Writes an image file's name, its image and its objects, as they are in a result, as one line of JSON.
///
/// # Panics
/// Never: a map of plain values can always be written to memory.
#[must_use]
pub fn objects_to_json(file: &str, image: &ImageInfo, objects: &[Object]) -> String {
    let map = PictureMap::of(file, image, objects);
    serde_json::to_string(&map).expect("a map of plain values can always be written")
}

/// Reads a result by its declared content type, never by what was asked for.
///
/// # Errors
/// [`ReadError`] says what is not as the contract has it.
pub fn read_result(content_type: Option<&str>, payload: &[u8]) -> Result<JobResult, ReadError> {
    match ResultFormat::declared(content_type)? {
        ResultFormat::Msgpack => {
            let read = rmp_serde::from_slice::<ResultMap<rmpv::Value>>(payload);
            let mut map =
                read.map_err(|error| unreadable(rmp_serde::from_slice(payload).ok(), error))?;
            let metadata = map.metadata.take();
            map.into_result(metadata)
        }
        ResultFormat::Json => {
            let read = serde_json::from_slice::<ResultMap<serde_json::Value>>(payload);
            let mut map =
                read.map_err(|error| unreadable(serde_json::from_slice(payload).ok(), error))?;
            let metadata = map.metadata.take().map(value::from_json);
            map.into_result(metadata)
        }
    }
}

/// The one key whose meaning no version changes.
#[derive(Clone, Copy, Deserialize)]
struct Version {
    v: u64,
}

/// Why a message could not be read: that of another version may have another shape.
fn unreadable(version: Option<Version>, error: impl Into<ReadError>) -> ReadError {
    match version {
        Some(Version { v }) if v != VERSION => ReadError::Version(v),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        job::Metadata,
        polygon::{BoundingBox, Point, Polygon, Ring},
        result::{ErrorCode, JobError, ModelInfo, Outcome, Stage, Timings},
        subject::Tenant,
    };

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
            instance: None,
            score: None,
            bbox: BoundingBox {
                x: 0,
                y: 0,
                width: 1,
                height: 1,
            },
            area_px: 1,
            deviation_px: None,
            coco_rle: None,
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
        let text = r#"{"v":2,"id":7,"outcome":["of another shape"]}"#;
        let error = read_result(Some(JSON), text.as_bytes()).expect_err("a newer version");
        assert_eq!(
            error.to_string(),
            "result version 2 is not supported, this program reads 1"
        );
    }
}
