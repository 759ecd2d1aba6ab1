//! A job's options: read from MessagePack or JSON by one reader, each value checked against its limits.

use serde_json::{Map, Value};

use crate::{
    job::{Connectivity, Forms, Options},
    limits::{OPTIONS_BYTES, SIMPLIFY_PX},
    result::{ErrorCode, JobError},
    wire::value,
};

/// Reads options in MessagePack; nil gives the defaults.
pub(super) fn from_msgpack(bytes: &[u8]) -> Result<Options, JobError> {
    check_size(bytes.len())?;
    let read = value::read_value(bytes);
    match read.map_err(|error| bad(format!("options cannot be read: {error}")))? {
        rmpv::Value::Nil => Ok(Options::default()),
        rmpv::Value::Map(entries) => from_map(&value::map_to_json(&entries)),
        other => Err(bad(format!(
            "options are {}, they must be a map",
            value::kind(&other)
        ))),
    }
}

/// Reads options in JSON.
pub(super) fn from_json(text: &str) -> Result<Options, JobError> {
    check_size(text.len())?;
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => from_map(&map),
        Ok(other) => Err(bad(format!(
            "options are {other}, they must be a JSON object"
        ))),
        Err(error) => Err(bad(format!("options are not JSON: {error}"))),
    }
}

/// Writes the options that differ from the defaults.
pub(super) fn to_map(options: &Options) -> Map<String, Value> {
    let Options {
        min_area_px,
        connectivity,
        simplify_px,
        max_vertices,
        score_threshold,
        forms,
    } = options;
    let connectivity = match connectivity {
        Connectivity::Four => 4,
        Connectivity::Eight => 8,
    };
    let forms = [("polygons", forms.polygons), ("coco_rle", forms.coco_rle)];
    let forms: Vec<&str> = forms
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(name, _)| name)
        .collect();
    let mut map = Map::new();
    map.insert("min_area_px".to_owned(), (*min_area_px).into());
    map.insert("connectivity".to_owned(), connectivity.into());
    map.insert("simplify_px".to_owned(), (*simplify_px).into());
    map.insert("max_vertices".to_owned(), (*max_vertices).into());
    map.insert("score_threshold".to_owned(), (*score_threshold).into());
    map.insert("forms".to_owned(), forms.into());
    map.retain(|_, value| !value.is_null());
    map
}

fn from_map(map: &Map<String, Value>) -> Result<Options, JobError> {
    let mut options = Options::default();
    for (key, value) in map.iter().filter(|(_, value)| !value.is_null()) {
        match key.as_str() {
            "min_area_px" => options.min_area_px = integer(key, value, 0, u64::from(u32::MAX))?,
            "connectivity" => options.connectivity = connectivity(value)?,
            "simplify_px" => options.simplify_px = number(key, value, SIMPLIFY_PX)?,
            "max_vertices" => {
                let most = integer(key, value, 3, u64::from(u32::MAX))?;
                options.max_vertices = u32::try_from(most).ok();
            }
            "score_threshold" => options.score_threshold = Some(number(key, value, 1.0)?),
            "forms" => options.forms = forms(value)?,
            _ => {}
        }
    }
    Ok(options)
}

fn bad(message: String) -> JobError {
    JobError::new(ErrorCode::BadOption, message)
}

fn check_size(n_bytes: usize) -> Result<(), JobError> {
    if n_bytes > OPTIONS_BYTES {
        return Err(bad(format!(
            "options have {n_bytes} bytes, the limit is {OPTIONS_BYTES}"
        )));
    }
    Ok(())
}

fn integer(key: &str, value: &Value, min: u64, max: u64) -> Result<u64, JobError> {
    let allowed = value.as_u64().filter(|number| (min..=max).contains(number));
    allowed.ok_or_else(|| {
        bad(format!(
            "option {key} is {value}, it must be an integer from {min} to {max}"
        ))
    })
}

fn number(key: &str, value: &Value, max: f64) -> Result<f64, JobError> {
    let allowed = value.as_f64().filter(|number| (0.0..=max).contains(number));
    allowed.ok_or_else(|| {
        bad(format!(
            "option {key} is {value}, it must be a number from 0 to {max}"
        ))
    })
}

fn connectivity(value: &Value) -> Result<Connectivity, JobError> {
    match value.as_u64() {
        Some(4) => Ok(Connectivity::Four),
        Some(8) => Ok(Connectivity::Eight),
        _ => Err(bad(format!(
            "option connectivity is {value}, it must be 4 or 8"
        ))),
    }
}

fn forms(value: &Value) -> Result<Forms, JobError> {
    let wrong = || {
        bad(format!(
            "option forms is {value}, it must be a list of one or both of \"polygons\" and \"coco_rle\""
        ))
    };
    let mut forms = Forms {
        polygons: false,
        coco_rle: false,
    };
    for form in value
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or_else(wrong)?
    {
        match form.as_str() {
            Some("polygons") => forms.polygons = true,
            Some("coco_rle") => forms.coco_rle = true,
            _ => return Err(wrong()),
        }
    }
    Ok(forms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_options_are_read() {
        let defaults = Options::default();
        let cases = [
            ("{}", defaults.clone()),
            (r#"{"connectivity": null, "unknown": 1}"#, defaults.clone()),
            (
                r#"{"connectivity": 4}"#,
                Options {
                    connectivity: Connectivity::Four,
                    ..defaults.clone()
                },
            ),
            (
                r#"{"min_area_px": 64}"#,
                Options {
                    min_area_px: 64,
                    ..defaults.clone()
                },
            ),
            (
                r#"{"max_vertices": 3}"#,
                Options {
                    max_vertices: Some(3),
                    ..defaults.clone()
                },
            ),
            (
                r#"{"score_threshold": 1}"#,
                Options {
                    score_threshold: Some(1.0),
                    ..defaults.clone()
                },
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(from_json(text).as_ref(), Ok(&expected), "{text}");
            let map = Value::Object(to_map(&expected)).to_string();
            assert_eq!(from_json(&map).as_ref(), Ok(&expected), "{map}");
        }
    }

    #[test]
    fn bad_options_name_the_value_and_the_limit() {
        let cases = [
            (
                r#"{"connectivity": 6}"#,
                "option connectivity is 6, it must be 4 or 8",
            ),
            (
                r#"{"connectivity": "8"}"#,
                "option connectivity is \"8\", it must be 4 or 8",
            ),
            (
                r#"{"min_area_px": -1}"#,
                "option min_area_px is -1, it must be an integer from 0 to 4294967295",
            ),
            (
                r#"{"simplify_px": 1e9}"#,
                "option simplify_px is 1000000000.0, it must be a number from 0 to 1024",
            ),
            (
                r#"{"max_vertices": 2}"#,
                "option max_vertices is 2, it must be an integer from 3 to 4294967295",
            ),
            (
                r#"{"score_threshold": 2}"#,
                "option score_threshold is 2, it must be a number from 0 to 1",
            ),
            (
                r#"{"forms": ["svg"]}"#,
                "option forms is [\"svg\"], it must be a list of one or both of \"polygons\" and \"coco_rle\"",
            ),
            (
                r#"{"forms": []}"#,
                "option forms is [], it must be a list of one or both of \"polygons\" and \"coco_rle\"",
            ),
            ("[]", "options are [], they must be a JSON object"),
        ];
        for (text, expected) in cases {
            let error = from_json(text).expect_err(text);
            assert_eq!(
                (error.code, error.message.as_str()),
                (ErrorCode::BadOption, expected)
            );
        }
        assert!(from_json(&" ".repeat(OPTIONS_BYTES + 1)).is_err());
    }
}
