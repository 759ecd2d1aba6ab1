//! What an ONNX file says of itself, read without an engine: its inputs, outputs and metadata.
//!
//! A file is a protocol buffer of which the weights are nearly all; everything but a few names is skipped.
//!
//! Source: `onnx.proto` (`ModelProto`, `GraphProto`, `ValueInfoProto`, `TypeProto`, `StringStringEntryProto`); the
//! encoding is that of <https://protobuf.dev/programming-guides/encoding/>.

use std::{collections::BTreeMap, fmt};

/// `TensorProto.DataType` of 32-bit floats.
pub(super) const FLOAT: u64 = 1;
/// `TensorProto.DataType` of 64-bit integers.
pub(super) const INT64: u64 = 7;

/// A graph's edges.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// What it must be given.
    pub(super) inputs: Vec<Edge>,
    /// What it gives.
    pub(super) outputs: Vec<Edge>,
    /// What its exporter noted.
    pub(super) metadata: BTreeMap<String, String>,
}

/// An input or output.
#[derive(Debug, Default, Clone)]
pub(super) struct Edge {
    pub(super) name: String,
    /// Number of its element's type; 0 where the file does not tell.
    pub(super) element: u64,
    /// Its dimensions, `None` for those that are not fixed; no dimensions where the file does not tell.
    pub(super) shape: Vec<Option<u64>>,
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sides = self.shape.iter().map(|side| match side {
            Some(side) => side.to_string(),
            None => "?".to_owned(),
        });
        write!(
            f,
            "{:?} [{}]",
            self.name,
            sides.collect::<Vec<_>>().join(", ")
        )
    }
}

/// The names of edges, for messages.
pub(super) fn names(edges: &[Edge]) -> String {
    let names: Vec<String> = edges.iter().map(Edge::to_string).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl Graph {
    /// Reads an ONNX file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(file: &[u8]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut has_graph = false;
        for field in Fields(file) {
            match field? {
                (7, Value::Bytes(graph)) => {
                    has_graph = true;
                    found.read_graph(graph)?;
                }
                (14, Value::Bytes(entry)) => {
                    let (key, value) = read_entry(entry)?;
                    found.metadata.insert(key, value);
                }
                _ => {}
            }
        }
        if has_graph {
            Ok(found)
        } else {
            Err("it has no graph; is it an ONNX file?".to_owned())
        }
    }

    fn read_graph(&mut self, graph: &[u8]) -> Result<(), String> {
        let mut weights = Vec::new();
        for field in Fields(graph) {
            match field? {
                (5, Value::Bytes(tensor)) => weights.push(read_name(tensor, 8)?),
                (11, Value::Bytes(input)) => self.inputs.push(read_edge(input)?),
                (12, Value::Bytes(output)) => self.outputs.push(read_edge(output)?),
                _ => {}
            }
        }
        // Old files list their weights as inputs too.
        self.inputs.retain(|input| !weights.contains(&input.name));
        Ok(())
    }
}

fn read_edge(bytes: &[u8]) -> Result<Edge, String> {
    let mut edge = Edge {
        name: read_name(bytes, 1)?,
        ..Edge::default()
    };
    let Some(tensor) = find(bytes, 2)?
        .map(|kind| find(kind, 1))
        .transpose()?
        .flatten()
    else {
        return Ok(edge);
    };
    for field in Fields(tensor) {
        match field? {
            (1, Value::Number(element)) => edge.element = element,
            (2, Value::Bytes(shape)) => edge.shape = read_shape(shape)?,
            _ => {}
        }
    }
    Ok(edge)
}

fn read_shape(bytes: &[u8]) -> Result<Vec<Option<u64>>, String> {
    let mut shape = Vec::new();
    for field in Fields(bytes) {
        if let (1, Value::Bytes(side)) = field? {
            let mut fixed = None;
            for field in Fields(side) {
                if let (1, Value::Number(number)) = field? {
                    // Some exporters write 0 or -1 for what is not fixed.
                    fixed = Some(number).filter(|&number| number > 0 && number < 1 << 32);
                }
            }
            shape.push(fixed);
        }
    }
    Ok(shape)
}

fn read_entry(bytes: &[u8]) -> Result<(String, String), String> {
    Ok((read_name(bytes, 1)?, read_name(bytes, 2)?))
}

/// A field that is text; empty where it is absent.
fn read_name(bytes: &[u8], number: u64) -> Result<String, String> {
    let text = find(bytes, number)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The last field of this number that has bytes.
fn find(bytes: &[u8], number: u64) -> Result<Option<&[u8]>, String> {
    let mut found = None;
    for field in Fields(bytes) {
        if let (n, Value::Bytes(value)) = field?
            && n == number
        {
            found = Some(value);
        }
    }
    Ok(found)
}

/// The fields of a message, each with its number.
struct Fields<'a>(&'a [u8]);

/// What a field has.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// A number of four or eight bytes, which nothing here wants.
    Fixed,
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Value<'a>), String> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.number()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            kind => return Err(format!("it has a field of the unknown kind {kind}")),
        };
        Ok((key >> 3, value))
    }

    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take(1)? else {
                break;
            };
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("it has a number that does not end".to_owned())
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], String> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((taken, rest)) = self.0.split_at_checked(length) else {
            let missing = length - self.0.len();
            return Err(format!("it is cut off, {missing} bytes are missing"));
        };
        self.0 = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_none_or_not_whole_says_so() {
        let graph: &[u8] = b"\x3a\x0b\x5a\x03\x0a\x01x\x62\x04\x0a\x02yz";
        let read = Graph::read(graph).expect("whole");
        assert_eq!(
            (names(&read.inputs), names(&read.outputs)),
            ("\"x\" []".to_owned(), "\"yz\" []".to_owned())
        );
        for (bytes, words) in [
            (&graph[..8], "it is cut off, 5 bytes are missing"),
            (b"", "it has no graph; is it an ONNX file?"),
            (b"hello", "it has a field of the unknown kind 4"),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                "does not end",
            ),
        ] {
            let error = Graph::read(bytes).expect_err(words);
            assert!(error.contains(words), "{bytes:?}: {error}");
        }
    }
}
