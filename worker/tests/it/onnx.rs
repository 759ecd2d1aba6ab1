//! The smallest ONNX files, written by hand.

/// A field of a protocol buffer that has bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short messages");
    let mut field = vec![number << 3 | 2];
    if length >= 0x80 {
        field.extend([length, 1]);
    } else {
        field.push(length);
    }
    [field, bytes.to_vec()].concat()
}

/// A field that has a small number.
fn number(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

/// An input or output of 32-bit floats. A side of 0 is not fixed.
fn edge(name: &str, shape: &[u8]) -> Vec<u8> {
    let side = |side| match side {
        0 => field(2, b"n"),
        _ => number(1, side),
    };
    let sides = shape.iter().flat_map(|&length| field(1, &side(length)));
    let tensor = [number(1, 1), field(2, &sides.collect::<Vec<u8>>())].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

fn model(node: &[u8], input: [u8; 4], output: &[u8]) -> Vec<u8> {
    let graph = [
        field(1, node),
        field(2, b"test"),
        field(11, &edge("image", &input)),
        field(12, &edge("mean", output)),
    ];
    let operators = field(8, &number(2, 13));
    [number(1, 8), field(7, &graph.concat()), operators].concat()
}

/// A graph of one node from `image` to `mean`.
fn node(operator: &str) -> Vec<u8> {
    [
        field(1, b"image"),
        field(2, b"mean"),
        field(4, operator.as_bytes()),
    ]
    .concat()
}

/// A graph of one operator that keeps the shape.
pub(crate) fn graph(operator: &str, shape: [u8; 4]) -> Vec<u8> {
    model(&node(operator), shape, &shape)
}

/// The mean of the channels.
pub(crate) fn mean_graph(shape: [u8; 4]) -> Vec<u8> {
    mean_over(1, shape)
}

/// The mean over a dimension, which is 1 then.
pub(crate) fn mean_over(axis: u8, shape: [u8; 4]) -> Vec<u8> {
    // An attribute of integers: axes = [axis].
    let axes = [
        field(1, b"axes"),
        vec![8 << 3, axis],
        vec![20 << 3 & 0x7f | 0x80, 1, 7],
    ]
    .concat();
    let node = [node("ReduceMean"), field(5, &axes)].concat();
    let mut output = shape;
    output[usize::from(axis)] = 1;
    model(&node, shape, &output)
}
