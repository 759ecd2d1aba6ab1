//! Splits MessagePack into values without decoding them.
//!
//! Needed because a typed reader recurses on nesting, allocates on claimed lengths, reads arrays as structs
//! and cannot tell a key's size before it has read it. The scan does none of this: one loop, no allocation.
//! It does not look inside values: that is the typed readers' part, once a value's size is known.

use rmp::Marker;
use thiserror::Error;

/// Bytes that are not the MessagePack expected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ScanError {
    #[error("the message ends in the middle of a value, at byte {0}")]
    Truncated(usize),
    #[error("byte {at} is 0x{byte:02x}, which starts no MessagePack value")]
    Reserved { at: usize, byte: u8 },
    #[error("the message is not a MessagePack map: it starts with {0}")]
    NotAMap(String),
    #[error("key number {0} of the map is not a string")]
    KeyNotText(u32),
    #[error("{0} bytes follow the end of the map")]
    TrailingBytes(usize),
}

/// Calls `entry` with each key of the map and the bytes of its value.
pub(super) fn scan_map<'a>(
    message: &'a [u8],
    mut entry: impl FnMut(&'a [u8], &'a [u8]),
) -> Result<(), ScanError> {
    let mut cursor = Cursor { message, at: 0 };
    let n_entries = cursor.map_len()?;
    for index in 0..n_entries {
        let key = cursor.text()?.ok_or(ScanError::KeyNotText(index + 1))?;
        entry(key, cursor.value()?);
    }
    match message.len() - cursor.at {
        0 => Ok(()),
        rest => Err(ScanError::TrailingBytes(rest)),
    }
}

/// A position in the message, never past its end.
struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

/// What a value's first bytes say follows them.
struct Head {
    /// Bytes of the value itself.
    content_bytes: u64,
    /// Further values inside it.
    n_values: u64,
}

impl<'a> Cursor<'a> {
    fn map_len(&mut self) -> Result<u32, ScanError> {
        match self.marker()? {
            Marker::FixMap(len) => Ok(u32::from(len)),
            Marker::Map16 => self.length(2),
            Marker::Map32 => self.length(4),
            other => Err(ScanError::NotAMap(format!("{other:?}"))),
        }
    }

    /// The bytes of a string, or `None` when the next value is none.
    fn text(&mut self) -> Result<Option<&'a [u8]>, ScanError> {
        let length = match self.marker()? {
            Marker::FixStr(len) => u32::from(len),
            Marker::Str8 => self.length(1)?,
            Marker::Str16 => self.length(2)?,
            Marker::Str32 => self.length(4)?,
            _ => return Ok(None),
        };
        self.take(u64::from(length)).map(Some)
    }

    /// The bytes of the next value, with everything inside it.
    fn value(&mut self) -> Result<&'a [u8], ScanError> {
        let start = self.at;
        // A claimed length of 2^32 values is read one by one, and so ends with the message.
        let mut n_open: u64 = 1;
        while n_open > 0 {
            let head = self.head()?;
            self.take(head.content_bytes)?;
            n_open = n_open - 1 + head.n_values;
        }
        Ok(&self.message[start..self.at])
    }

    fn head(&mut self) -> Result<Head, ScanError> {
        let content = |content_bytes: u32| Head {
            content_bytes: u64::from(content_bytes),
            n_values: 0,
        };
        let values = |n_values: u64| Head {
            content_bytes: 0,
            n_values,
        };
        let at = self.at;
        Ok(match self.marker()? {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                content(0)
            }
            Marker::U8 | Marker::I8 => content(1),
            Marker::U16 | Marker::I16 | Marker::FixExt1 => content(2),
            Marker::FixExt2 => content(3),
            Marker::U32 | Marker::I32 | Marker::F32 => content(4),
            Marker::FixExt4 => content(5),
            Marker::U64 | Marker::I64 | Marker::F64 => content(8),
            Marker::FixExt8 => content(9),
            Marker::FixExt16 => content(17),
            Marker::FixStr(len) => content(u32::from(len)),
            Marker::Str8 | Marker::Bin8 => content(self.length(1)?),
            Marker::Str16 | Marker::Bin16 => content(self.length(2)?),
            Marker::Str32 | Marker::Bin32 => content(self.length(4)?),
            // An extension's type takes one byte more.
            Marker::Ext8 => Head {
                content_bytes: u64::from(self.length(1)?) + 1,
                n_values: 0,
            },
            Marker::Ext16 => Head {
                content_bytes: u64::from(self.length(2)?) + 1,
                n_values: 0,
            },
            Marker::Ext32 => Head {
                content_bytes: u64::from(self.length(4)?) + 1,
                n_values: 0,
            },
            Marker::FixArray(len) => values(u64::from(len)),
            Marker::Array16 => values(u64::from(self.length(2)?)),
            Marker::Array32 => values(u64::from(self.length(4)?)),
            Marker::FixMap(len) => values(2 * u64::from(len)),
            Marker::Map16 => values(2 * u64::from(self.length(2)?)),
            Marker::Map32 => values(2 * u64::from(self.length(4)?)),
            Marker::Reserved => {
                return Err(ScanError::Reserved {
                    at,
                    byte: Marker::Reserved.to_u8(),
                });
            }
        })
    }

    fn marker(&mut self) -> Result<Marker, ScanError> {
        let byte = self.take(1)?;
        Ok(Marker::from_u8(byte[0]))
    }

    /// A big-endian length of 1, 2 or 4 bytes.
    fn length(&mut self, n_bytes: u64) -> Result<u32, ScanError> {
        let bytes = self.take(n_bytes)?;
        Ok(bytes
            .iter()
            .fold(0, |length, &byte| (length << 8) | u32::from(byte)))
    }

    fn take(&mut self, n_bytes: u64) -> Result<&'a [u8], ScanError> {
        let truncated = ScanError::Truncated(self.message.len());
        let Ok(n_bytes) = usize::try_from(n_bytes) else {
            return Err(truncated);
        };
        let rest = &self.message[self.at..];
        let taken = rest.get(..n_bytes).ok_or(truncated)?;
        self.at += n_bytes;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes of each value of the map.
    fn values_of(message: &[u8]) -> Result<Vec<Vec<u8>>, ScanError> {
        let mut found = Vec::new();
        scan_map(message, |_, value| found.push(value.to_vec()))?;
        Ok(found)
    }

    #[test]
    fn says_what_is_wrong() {
        let cases: [(&[u8], &str); 7] = [
            (b"", "the message ends in the middle of a value, at byte 0"),
            (
                b"\xff\xd8\xff",
                "the message is not a MessagePack map: it starts with FixNeg(-1)",
            ),
            (
                b"\x93\x01\x02\x03",
                "the message is not a MessagePack map: it starts with FixArray(3)",
            ),
            (b"\x81\x01\x02", "key number 1 of the map is not a string"),
            (
                b"\x81\xa1v\xc1",
                "byte 3 is 0xc1, which starts no MessagePack value",
            ),
            (b"\x80\x01", "1 bytes follow the end of the map"),
            (
                b"\xdf\xff\xff\xff\xff",
                "the message ends in the middle of a value, at byte 5",
            ),
        ];
        for (message, expected) in cases {
            let error = values_of(message).expect_err(expected).to_string();
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn deep_nesting_is_no_recursion() {
        let depth = 1_000_000;
        let mut message = b"\x81\xa1x".to_vec();
        message.extend(std::iter::repeat_n(0x91, depth));
        message.push(0xc0);
        assert_eq!(values_of(&message).expect("a map")[0].len(), depth + 1);
    }

    fn any_value() -> impl Strategy<Value = rmpv::Value> {
        use rmpv::Value;
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f32>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,300}".prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Binary),
            (any::<i8>(), proptest::collection::vec(any::<u8>(), 0..300))
                .prop_map(|(kind, data)| Value::Ext(kind, data)),
        ];
        leaf.prop_recursive(4, 64, 20, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
                proptest::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
            ]
        })
    }

    proptest! {
        #[test]
        fn finds_every_value_that_a_full_reader_finds(values in proptest::collection::vec(any_value(), 0..20)) {
            let encode = |value: &rmpv::Value| {
                let mut bytes = Vec::new();
                rmpv::encode::write_value(&mut bytes, value).expect("writing to memory");
                bytes
            };
            let keyed = values.iter().enumerate().map(|(n, v)| (n.to_string().into(), v.clone())).collect();
            let message = encode(&rmpv::Value::Map(keyed));
            let found = values_of(&message).expect("a map");
            let expected: Vec<_> = values.iter().map(encode).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn what_is_taken_from_any_bytes_is_a_whole_map(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(values) = values_of(&message) {
                let mut rest = message.as_slice();
                let map = rmpv::decode::read_value(&mut rest).expect("a full reader takes it too");
                prop_assert_eq!(map.as_map().map(Vec::len), Some(values.len()));
                prop_assert!(rest.is_empty());
            }
        }
    }
}
