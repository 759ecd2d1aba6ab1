//! Jobs on the wire: [`encode_job`], [`read_job`].

use bytes::Bytes;
use serde::Serialize;

use crate::{
    job::{Job, Metadata, Options},
    limits::VERSION,
    result::{ErrorCode, JobError},
    wire::{MSGPACK, media_type, options, scan, value},
};

/// A job as it was delivered: its payload and the headers that say how to read it.
#[derive(Debug, Clone)]
pub struct JobMessage<'a> {
    /// A MessagePack map, or with `image/*` as the content type the image file itself.
    pub payload: &'a Bytes,
    /// The header `Content-Type`; absent means MessagePack.
    pub content_type: Option<&'a str>,
    /// The header `Segment-Options`, read only for a raw image: its options in JSON.
    pub options: Option<&'a str>,
}

/// Writes a job as a MessagePack map.
///
/// # Panics
/// Never: a map of plain values can always be written to memory.
#[must_use]
pub fn encode_job(job: &Job) -> Vec<u8> {
    #[derive(Serialize)]
    struct JobMap<'a> {
        v: u64,
        image: &'a serde_bytes::Bytes,
        options: serde_json::Map<String, serde_json::Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        metadata: Option<rmpv::Value>,
    }
    let map = JobMap {
        v: VERSION,
        image: serde_bytes::Bytes::new(&job.image),
        options: options::to_map(&job.options),
        metadata: job
            .metadata
            .as_ref()
            .map(|metadata| rmpv::Value::Map(metadata.entries().to_vec())),
    };
    rmp_serde::to_vec_named(&map).expect("a map of plain values can always be written")
}

/// Reads a job; the image is a slice of the payload, not a copy.
///
/// ```
/// use segfleet_common::{job::{Job, Options}, wire};
///
/// let job = Job { image: vec![0xff, 0xd8].into(), options: Options::default(), metadata: None };
/// let payload = wire::encode_job(&job).into();
/// let message = wire::JobMessage { payload: &payload, content_type: None, options: None };
/// assert_eq!(wire::read_job(&message), Ok(job));
/// ```
///
/// # Errors
/// The error to answer: `bad_message`, `unsupported_version`, `bad_option`, `metadata_too_large` or
/// `image_missing`.
pub fn read_job(message: &JobMessage<'_>) -> Result<Job, JobError> {
    let content_type = message
        .content_type
        .map_or_else(|| MSGPACK.to_owned(), media_type);
    if content_type.starts_with("image/") {
        return read_raw(message);
    }
    match content_type.as_str() {
        MSGPACK
        | "application/x-msgpack"
        | "application/vnd.msgpack"
        | "application/octet-stream" => read_map(message.payload),
        other => Err(bad(format!(
            "content type {other:?} is not served, send {MSGPACK} or image/*"
        ))),
    }
}

/// The metadata of a job that failed, if that much can be read, so that its answer can echo it.
#[must_use]
pub fn read_metadata(message: &JobMessage<'_>) -> Option<Metadata> {
    if message
        .content_type
        .is_some_and(|header| media_type(header).starts_with("image/"))
    {
        return None;
    }
    value::read_metadata(split(message.payload).ok()?.metadata?).ok()?
}

fn read_raw(message: &JobMessage<'_>) -> Result<Job, JobError> {
    let options = message
        .options
        .map_or_else(|| Ok(Options::default()), options::from_json)?;
    let image = check_image(message.payload.clone())?;
    Ok(Job {
        image,
        options,
        metadata: None,
    })
}

/// The values of the keys that a job may have, not yet read.
#[derive(Default)]
struct Parts<'a> {
    version: Option<&'a [u8]>,
    image: Option<&'a [u8]>,
    blob: Option<&'a [u8]>,
    options: Option<&'a [u8]>,
    metadata: Option<&'a [u8]>,
}

fn read_map(payload: &Bytes) -> Result<Job, JobError> {
    let parts = split(payload)?;
    check_version(parts.version)?;
    let options = parts
        .options
        .map_or_else(|| Ok(Options::default()), options::from_msgpack)?;
    let metadata = parts
        .metadata
        .map_or(Ok(None::<Metadata>), value::read_metadata)?;
    let image = match (parts.image, parts.blob) {
        (Some(image), _) => read_bin(image)?,
        (None, Some(_)) => {
            return Err(bad(
                "images in blobs are not served yet, send `image`".to_owned()
            ));
        }
        (None, None) => return Err(no_image("the job has no `image`")),
    };
    Ok(Job {
        image: check_image(payload.slice_ref(image))?,
        options,
        metadata,
    })
}

fn split(payload: &[u8]) -> Result<Parts<'_>, JobError> {
    const NIL: &[u8] = b"\xc0";
    let mut parts = Parts::default();
    let scanned = scan::scan_map(payload, |key, value| {
        let part = match key {
            b"v" => &mut parts.version,
            b"image" => &mut parts.image,
            b"blob" => &mut parts.blob,
            b"options" => &mut parts.options,
            b"metadata" => &mut parts.metadata,
            _ => return,
        };
        *part = Some(value).filter(|&value| value != NIL);
    });
    scanned.map_err(|error| bad(error.to_string()))?;
    Ok(parts)
}

fn check_version(version: Option<&[u8]>) -> Result<(), JobError> {
    let Some(bytes) = version else {
        return Err(bad(format!(
            "the version `v` is missing, it must be {VERSION}"
        )));
    };
    // The longest integer; anything longer is none, and is not worth reading.
    const LONGEST_INTEGER_BYTES: usize = 9;
    if bytes.len() > LONGEST_INTEGER_BYTES {
        return Err(bad(format!(
            "the version `v` is no integer, it must be {VERSION}"
        )));
    }
    let read = value::read_value(bytes).map_err(bad)?;
    match read.as_u64() {
        Some(VERSION) => Ok(()),
        Some(other) => {
            let message =
                format!("message version {other} is not served, this worker speaks {VERSION}");
            Err(JobError::new(ErrorCode::UnsupportedVersion, message))
        }
        None => Err(bad(format!(
            "the version `v` is {}, it must be {VERSION}",
            value::kind(&read)
        ))),
    }
}

fn read_bin(value: &[u8]) -> Result<&[u8], JobError> {
    let mut rest = value;
    match rmp::decode::read_bin_len(&mut rest) {
        Ok(_) => Ok(rest),
        Err(error) => {
            let message =
                format!("`image` must be binary (bin), not a string or an array: {error}");
            Err(bad(message))
        }
    }
}

fn check_image(image: Bytes) -> Result<Bytes, JobError> {
    if image.is_empty() {
        return Err(no_image("the image is empty"));
    }
    Ok(image)
}

fn bad(message: String) -> JobError {
    JobError::new(ErrorCode::BadMessage, message)
}

fn no_image(message: &str) -> JobError {
    JobError::new(ErrorCode::ImageMissing, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmpv::Value;

    use super::*;
    use crate::limits::METADATA_BYTES;

    fn job() -> Job {
        let metadata = Metadata::text("file", "a.png");
        Job {
            image: vec![1, 2, 3].into(),
            options: Options::default(),
            metadata: Some(metadata),
        }
    }

    fn read(payload: &[u8]) -> Result<Job, JobError> {
        let payload = Bytes::copy_from_slice(payload);
        read_job(&JobMessage {
            payload: &payload,
            content_type: None,
            options: None,
        })
    }

    fn map(entries: &[(&str, Value)]) -> Vec<u8> {
        let entries = entries
            .iter()
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect();
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &Value::Map(entries)).expect("writing to memory");
        bytes
    }

    #[test]
    fn golden_bytes() {
        let golden =
            b"\x84\xa1v\x01\xa5image\xc4\x03\x01\x02\x03\xa7options\x84\xacconnectivity\x08\
            \xa5forms\x91\xa8polygons\xabmin_area_px\x01\xabsimplify_px\xcb\0\0\0\0\0\0\0\0\
            \xa8metadata\x81\xa4file\xa5a.png";
        assert_eq!(encode_job(&job()), golden);
        assert_eq!(read(golden), Ok(job()));
    }

    #[test]
    fn what_a_client_gets_wrong_has_a_code_and_a_sentence() {
        let image = Value::Binary(vec![1]);
        let large = Value::Map(vec![("x".into(), Value::Binary(vec![0; METADATA_BYTES]))]);
        let cases = [
            (
                map(&[("v", 1.into())]),
                "image_missing: the job has no `image`",
            ),
            (
                map(&[("v", 1.into()), ("image", Value::Nil)]),
                "image_missing: the job has no `image`",
            ),
            (
                map(&[("v", 1.into()), ("image", Value::Binary(vec![]))]),
                "image_missing: the image is empty",
            ),
            (
                map(&[("image", image.clone())]),
                "bad_message: the version `v` is missing, it must be 1",
            ),
            (
                map(&[("v", "1".into()), ("image", image.clone())]),
                "bad_message: the version `v` is a string, it must be 1",
            ),
            (
                map(&[("v", 2.into()), ("image", "a future form".into())]),
                "unsupported_version: message version 2 is not served, this worker speaks 1",
            ),
            (
                map(&[
                    ("v", 1.into()),
                    ("image", image.clone()),
                    ("metadata", large),
                ]),
                "metadata_too_large: metadata has 16390 bytes, the limit is 16384",
            ),
            (
                map(&[
                    ("v", 1.into()),
                    ("image", image.clone()),
                    ("metadata", 7.into()),
                ]),
                "bad_message: metadata is an integer, it must be a map",
            ),
            (
                map(&[
                    ("v", 1.into()),
                    ("image", image),
                    ("options", Value::Array(vec![])),
                ]),
                "bad_option: options are an array, they must be a map",
            ),
        ];
        for (payload, expected) in cases {
            assert_eq!(read(&payload).expect_err(expected).to_string(), expected);
        }
    }

    #[test]
    fn an_image_that_is_text_is_told_from_one_that_is_missing() {
        let text = map(&[("v", 1.into()), ("image", "text".into())]);
        let error = read(&text).expect_err("a string is no image");
        assert!(
            error.message.starts_with("`image` must be binary (bin)"),
            "{error}"
        );
    }

    #[test]
    fn unknown_keys_are_skipped_and_nil_is_absent() {
        let payload = map(&[
            ("new", Value::Array(vec![Value::Nil; 100])),
            ("v", 1.into()),
            ("options", Value::Nil),
            ("image", Value::Binary(vec![1, 2, 3])),
            ("metadata", Value::Nil),
        ]);
        assert_eq!(
            read(&payload),
            Ok(Job {
                metadata: None,
                ..job()
            })
        );
    }

    #[test]
    fn a_raw_image_takes_its_options_from_the_header() {
        let payload = Bytes::from_static(b"\xff\xd8\xff");
        let message = |content_type, options| JobMessage {
            payload: &payload,
            content_type,
            options,
        };
        let read = read_job(&message(
            Some("IMAGE/jpeg; q=1"),
            Some(r#"{"min_area_px": 9}"#),
        ));
        let job = read.expect("a raw job");
        assert_eq!((job.image, job.options.min_area_px), (payload.clone(), 9));
        let error = read_job(&message(Some("text/plain"), None)).expect_err("not served");
        assert!(
            error.message.contains("\"text/plain\" is not served"),
            "{error}"
        );
    }

    #[test]
    fn truncated_anywhere_is_an_error() {
        let whole = encode_job(&job());
        for length in 0..whole.len() {
            assert_eq!(
                read(&whole[..length]).expect_err("truncated").code,
                ErrorCode::BadMessage,
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_mutation_is_read_or_is_the_clients_fault(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
            let mut bytes = encode_job(&job());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let mut shorter = bytes.clone();
            shorter.remove(cut.index(bytes.len()));
            for bytes in [bytes, shorter] {
                if let Err(error) = read(&bytes) {
                    prop_assert!(!error.code.is_given_up() && !error.message.is_empty(), "{}", error);
                }
            }
        }
    }
}
