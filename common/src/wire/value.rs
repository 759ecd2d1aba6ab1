//! MessagePack values of any shape: read under limits, and told in JSON.

use base64::{Engine, engine::general_purpose::STANDARD};
use rmpv::Value;

use crate::{
    job::Metadata,
    limits::{METADATA_BYTES, NESTING_DEPTH},
    result::{ErrorCode, JobError},
};

/// Reads one value whose bytes have been scanned.
pub(super) fn read_value(mut bytes: &[u8]) -> Result<Value, String> {
    rmpv::decode::read_value_with_max_depth(&mut bytes, NESTING_DEPTH)
        .map_err(|error| error.to_string())
}

/// Reads a job's metadata; nil is none.
pub(super) fn read_metadata(bytes: &[u8]) -> Result<Option<Metadata>, JobError> {
    if bytes.len() > METADATA_BYTES {
        let message = format!(
            "metadata has {} bytes, the limit is {METADATA_BYTES}",
            bytes.len()
        );
        return Err(JobError::new(ErrorCode::MetadataTooLarge, message));
    }
    let bad = |what: String| JobError::new(ErrorCode::BadMessage, what);
    match read_value(bytes).map_err(|error| bad(format!("metadata cannot be read: {error}")))? {
        Value::Nil => Ok(None),
        Value::Map(entries) => Ok(Some(Metadata::from_entries(entries))),
        other => Err(bad(format!(
            "metadata is {}, it must be a map",
            kind(&other)
        ))),
    }
}

/// The value in words, for error messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "a boolean",
        Value::Integer(_) => "an integer",
        Value::F32(_) | Value::F64(_) => "a float",
        Value::String(_) => "a string",
        Value::Binary(_) => "binary",
        Value::Array(_) => "an array",
        Value::Map(_) => "a map",
        Value::Ext(..) => "an extension",
    }
}

/// The value in JSON. What JSON has no form for is told as closely as it can: bytes as base64, numbers that
/// are none as null, keys that are no strings as their own JSON text.
pub(super) fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Boolean(flag) => (*flag).into(),
        Value::Integer(number) => match (number.as_u64(), number.as_i64()) {
            (Some(unsigned), _) => unsigned.into(),
            (None, Some(signed)) => signed.into(),
            (None, None) => serde_json::Value::Null,
        },
        Value::F32(number) => f64::from(*number).into(),
        Value::F64(number) => (*number).into(),
        Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into(),
        Value::Binary(bytes) | Value::Ext(_, bytes) => STANDARD.encode(bytes).into(),
        Value::Array(values) => values.iter().map(to_json).collect(),
        Value::Map(entries) => map_to_json(entries).into(),
    }
}

/// The map in JSON; see [`to_json`].
pub(super) fn map_to_json(
    entries: &[(Value, Value)],
) -> serde_json::Map<String, serde_json::Value> {
    let key = |value: &Value| match to_json(value) {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    entries
        .iter()
        .map(|(name, value)| (key(name), to_json(value)))
        .collect()
}

/// The JSON value in MessagePack's types.
pub(super) fn from_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(flag) => flag.into(),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(unsigned), _) => unsigned.into(),
            (None, Some(signed)) => signed.into(),
            (None, None) => number.as_f64().map_or(Value::Nil, Value::from),
        },
        serde_json::Value::String(text) => text.into(),
        serde_json::Value::Array(values) => {
            values.into_iter().map(from_json).collect::<Vec<_>>().into()
        }
        serde_json::Value::Object(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), from_json(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_lacks_is_told_as_closely_as_it_can() {
        let map = Value::Map(vec![
            ("text".into(), "ä".into()),
            ("bytes".into(), Value::Binary(vec![0, 255])),
            ("nan".into(), f64::NAN.into()),
            ("big".into(), u64::MAX.into()),
            (
                7.into(),
                Value::Array(vec![Value::Nil, true.into(), (-1).into()]),
            ),
        ]);
        let expected = r#"{"7":[null,true,-1],"big":18446744073709551615,"bytes":"AP8=","nan":null,"text":"ä"}"#;
        assert_eq!(to_json(&map).to_string(), expected);
    }
}
