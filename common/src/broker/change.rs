//! What differs between two configurations, and how that reads.

use std::{fmt, time::Duration};

use serde::Serialize;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field, by the broker's name for it.
    pub field: String,
    /// What it is.
    pub from: serde_json::Value,
    /// What it shall be.
    pub to: serde_json::Value,
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, from, to } = self;
        if let (Some(from), Some(to)) = (from.as_array(), to.as_array()) {
            let added = to
                .iter()
                .filter(|item| !from.contains(item))
                .map(|item| format!("+{item}"));
            let removed = from
                .iter()
                .filter(|item| !to.contains(item))
                .map(|item| format!("-{item}"));
            return write!(
                f,
                "{field} {}",
                added.chain(removed).collect::<Vec<_>>().join(" ")
            );
        }
        if let (Some(from), Some(to)) = (from.as_object(), to.as_object()) {
            let changed = to
                .iter()
                .filter(|(key, value)| from.get(*key) != Some(*value));
            let changed = changed.map(|(key, value)| {
                let from = from.get(key).unwrap_or(&serde_json::Value::Null);
                format!("{key} {} -> {}", show(key, from), show(key, value))
            });
            return f.write_str(&changed.collect::<Vec<_>>().join(", "));
        }
        write!(f, "{field} {} -> {}", show(field, from), show(field, to))
    }
}

fn show(field: &str, value: &serde_json::Value) -> String {
    match (field, value.as_u64()) {
        ("max_age" | "ack_wait" | "duplicate_window", Some(0)) => "none".to_owned(),
        ("max_age" | "ack_wait" | "duplicate_window", Some(nanos)) => {
            show_time(Duration::from_nanos(nanos))
        }
        _ if value.is_null() => "unset".to_owned(),
        _ => value.to_string(),
    }
}

/// In the largest unit that divides it, as the flags take it.
fn show_time(time: Duration) -> String {
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let seconds = time.as_secs();
    match units
        .into_iter()
        .find(|(_, unit_s)| time.subsec_nanos() == 0 && seconds.is_multiple_of(*unit_s))
    {
        Some((unit, unit_s)) => format!("{}{unit}", seconds / unit_s),
        None => format!("{time:?}"),
    }
}

/// What set-up did with one stream or consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created(String),
    /// It existed; these fields changed.
    Updated(String, Vec<FieldChange>),
    /// It existed as it should be.
    Kept(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(what) => write!(f, "created  {what}"),
            Self::Kept(what) => write!(f, "kept     {what}"),
            Self::Updated(what, fields) => write!(f, "changed  {what}: {}", list(fields)),
        }
    }
}

/// The changes in one line.
pub(super) fn list(fields: &[FieldChange]) -> String {
    let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
    fields.join(", ")
}

/// The fields in which two configurations differ.
pub(super) fn diff<C: Serialize>(before: &C, after: &C) -> Vec<FieldChange> {
    let fields = |config: &C| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    let null = serde_json::Value::Null;
    let changed = names.into_iter().filter_map(|name| {
        let from = before.get(name).unwrap_or(&null);
        let to = after.get(name).unwrap_or(&null);
        (from != to).then(|| FieldChange {
            field: name.clone(),
            from: from.clone(),
            to: to.clone(),
        })
    });
    changed.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_read_as_the_flags_are_written() {
        let day_ns = 86_400_000_000_000_u64;
        let cases = [
            (
                "max_age",
                json!(day_ns),
                json!(day_ns / 2),
                "max_age 1d -> 12h",
            ),
            (
                "ack_wait",
                json!(null),
                json!(1_500_000_000),
                "ack_wait unset -> 1.5s",
            ),
            ("max_age", json!(day_ns), json!(0), "max_age 1d -> none"),
            (
                "subjects",
                json!(["a"]),
                json!(["a", "b"]),
                "subjects +\"b\"",
            ),
            ("num_replicas", json!(1), json!(3), "num_replicas 1 -> 3"),
            (
                "metadata",
                json!({"a": "1", "b": "2"}),
                json!({"a": "1", "b": "3", "c": "4"}),
                "b \"2\" -> \"3\", c unset -> \"4\"",
            ),
        ];
        for (field, from, to, expected) in cases {
            let change = FieldChange {
                field: field.to_owned(),
                from,
                to,
            };
            assert_eq!(change.to_string(), expected);
        }
    }
}
