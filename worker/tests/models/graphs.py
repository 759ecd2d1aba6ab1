#!/usr/bin/env python3
"""Builds small networks of every head with known answers, and broken ones, as model packages.

    graphs.py FOLDER

FOLDER gets packages/NAME, images/NAME.png and expected/NAME.png (as reference.py writes it) for each that works;
broken/NAME for each that must be refused; and broken.json, which says of each what is wrong. No network of these has
weights: one can say by hand what it must find, to the pixel.
"""

import json
import pathlib
import sys

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
YOLO_SIDE = 128
N_BOXES = 336  # Those of Ultralytics at strides 8, 16, 32 for this side.
N_COEFFICIENTS = 32
PROTOTYPE_STRIDE = 4
LABELS = ["square", "disc"]


def package(
    name, head, output, size=(64, 64), fit="stretch", layout="nchw", channels="rgb", more_input="", more_output=""
):
    size = "" if size is None else f"size = {list(size)}\n"
    return f"""name = "{name}"
version = "1.0"
licence = "CC0-1.0"
task = "test"

[input]
{size}{more_input}fit = "{fit}"
layout = "{layout}"
channels = "{channels}"
filter = "bilinear"
scale = 0.00392156862745098
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]

[output]
head = "{head}"
name = "{output}"
{more_output}"""


def graph(nodes, shape, outputs, constants=()):
    """A network with the input `image`; `outputs` are (name, shape) or (name, shape, type)."""
    described = [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)]
    typed = [(*output, TensorProto.FLOAT)[:3] for output in outputs]
    results = [helper.make_tensor_value_info(name, kind, output_shape) for name, output_shape, kind in typed]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants]
    built = helper.make_graph(nodes, "test", described, results, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("segfleet.test", 1)]
    return helper.make_model(built, opset_imports=opsets, ir_version=8)


def mean_graph(shape):
    """The brightness of each pixel."""
    node = helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1], keepdims=1)
    return graph([node], shape, [("mean", [shape[0], 1, *shape[2:]])])


def picture(width, height, *areas):
    """Black, with areas (left, top, right, bottom, colour)."""
    pixels = numpy.zeros((height, width, 3), numpy.uint8)
    for left, top, right, bottom, colour in areas:
        pixels[top:bottom, left:right] = colour
    return pixels


def mask(width, height, *areas):
    """0, with areas (left, top, right, bottom, label); the first has a pixel that several hold."""
    labels = numpy.zeros((height, width), numpy.uint8)
    for left, top, right, bottom, label in reversed(areas):
        labels[max(top, 0) : bottom, max(left, 0) : right] = label
    return labels


def binary():
    return (
        mean_graph([1, 3, 64, 64]),
        package("binary", "binary", "mean", more_output="threshold = 0.5\n"),
        picture(64, 64, (10, 20, 30, 50, WHITE), (40, 5, 60, 10, WHITE), (40, 40, 60, 60, RED)),
        mask(64, 64, (10, 20, 30, 50, 255), (40, 5, 60, 10, 255)),
    )


def binary_letterbox():
    """Twice as wide as high: padding above and below, which is grey and not found."""
    return (
        mean_graph([1, 3, 64, 64]),
        package("binary-letterbox", "binary", "mean", fit="letterbox", more_output="threshold = 0.5\n"),
        picture(64, 32, (0, 0, 64, 32, WHITE)),
        mask(64, 32, (0, 0, 64, 32, 255)),
    )


def binary_nhwc_bgr():
    """The first channel of the last axis, which is blue; the output is as in the others."""
    constants = [("starts", numpy.array([0])), ("ends", numpy.array([1])), ("axes", numpy.array([3]))]
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["first"]),
        helper.make_node("Transpose", ["first"], ["blue"], perm=[0, 3, 1, 2]),
    ]
    settings = {"layout": "nhwc", "channels": "bgr", "more_output": "threshold = 0.5\n"}
    return (
        graph(nodes, [1, 64, 64, 3], [("blue", [1, 1, 64, 64])], constants),
        package("binary-nhwc-bgr", "binary", "blue", **settings),
        picture(64, 64, (5, 5, 20, 20, BLUE), (30, 5, 45, 20, RED), (5, 30, 20, 45, GREEN), (30, 30, 64, 64, WHITE)),
        mask(64, 64, (5, 5, 20, 20, 255), (30, 30, 64, 64, 255)),
    )


def logits(stride):
    """Background 0.5, `red` r - g - b, `blue` b - r - g, of the means of stride x stride pixels."""
    weights = numpy.array([[0, 0, 0], [1, -1, -1], [-1, -1, 1]], numpy.float32).reshape(3, 3, 1, 1)
    bias = numpy.array([0.5, 0, 0], numpy.float32)
    return [
        helper.make_node("AveragePool", ["image"], ["coarse"], kernel_shape=[stride] * 2, strides=[stride] * 2),
        helper.make_node("Conv", ["coarse", "weights", "bias"], ["logits"]),
    ], [("weights", weights), ("bias", bias)]


def semantic():
    nodes, constants = logits(stride=1)
    return (
        graph(nodes, [1, 3, 64, 64], [("logits", [1, 3, 64, 64])], constants),
        package("semantic", "semantic", "logits", more_output='labels = ["background", "red", "blue"]\n'),
        picture(64, 64, (8, 8, 24, 40, RED), (30, 12, 60, 50, BLUE), (8, 50, 24, 60, WHITE)),
        mask(64, 64, (8, 8, 24, 40, 1), (30, 12, 60, 50, 2)),
    )


def semantic_coarse():
    """One value for 4 x 4 pixels; edges that run from side to side are where they were all the same."""
    nodes, constants = logits(stride=4)
    return (
        graph(nodes, [1, 3, 64, 64], [("logits", [1, 3, 16, 16])], constants),
        package("semantic-coarse", "semantic", "logits", more_output='labels = ["background", "red", "blue"]\n'),
        picture(64, 64, (0, 0, 20, 64, RED), (40, 0, 64, 64, BLUE)),
        mask(64, 64, (0, 0, 20, 64, 1), (40, 0, 64, 64, 2)),
    )


def semantic_classes():
    """Classes and no logits, as whole numbers."""
    nodes, constants = logits(stride=1)
    nodes.append(helper.make_node("ArgMax", ["logits"], ["classes"], axis=1, keepdims=0))
    _, _, pixels, expected = semantic()
    return (
        graph(nodes, [1, 3, 64, 64], [("classes", [1, 64, 64], TensorProto.INT64)], constants),
        package("semantic-classes", "semantic", "classes", more_output='labels = ["background", "red", "blue"]\n'),
        pixels,
        expected,
    )


def text():
    """A core of 40 x 8 grows by 40 * 8 * 1.6 / 96 = 5.33, which reaches the centres of five pixels more on each side.
    One of 20 x 2 is too thin. One of 8 x 8 is bright enough to be found, and too dark to count.
    """
    limits = "threshold = 0.3\nbox_threshold = 0.5\ngrow = 1.6\nmin_side_px = 3\n"
    return (
        mean_graph([1, 3, "height", "width"]),
        package(
            "text",
            "text",
            "mean",
            size=None,
            more_input="short_side = 64\nmax_side = 2000\nmultiple_of = 32\n",
            more_output=limits,
        ),
        picture(96, 64, (20, 30, 60, 38, WHITE), (70, 50, 90, 52, WHITE), (75, 10, 83, 18, (100, 100, 100))),
        mask(96, 64, (15, 25, 65, 43, 255)),
    )


# Left, top, right, bottom in the image, class, score, prototype. The image is half as high as the network's input.
BOXES = [
    (8, 8, 40, 40, 0, 0.9, 0),
    (10, 8, 42, 40, 1, 0.85, 0),  # Over the first, of another class: keeps what the first leaves.
    (10, 8, 42, 40, 0, 0.8, 0),  # Over the first, of its class: overlaps it by 0.88 and goes.
    (64, 16, 120, 56, 0, 0.7, 1),  # The prototype ends at 96.
    (100, -10, 140, 10, 1, 0.6, 0),  # Ends outside the image.
    (80, 16, 136, 56, 0, 0.5, 0),  # Overlaps the one that ends at 120 by 0.56.
    (20, 44, 40, 60, 1, 0.2, 0),  # Improbable.
]


def yolo_graph():
    boxes = numpy.zeros((1, 4 + len(LABELS) + N_COEFFICIENTS, N_BOXES), numpy.float32)
    # Not in the order of their scores, and not the first.
    for box_idx, (left, top, right, bottom, class_idx, score, prototype_idx) in zip(range(300, 0, -17), BOXES):
        middle = YOLO_SIDE // 4  # The padding above the image.
        boxes[0, :4, box_idx] = (left + right) / 2, (top + bottom) / 2 + middle, right - left, bottom - top
        boxes[0, 4 + class_idx, box_idx] = score
        boxes[0, 4 + len(LABELS) + prototype_idx, box_idx] = 1
    side = YOLO_SIDE // PROTOTYPE_STRIDE
    prototypes = numpy.zeros((1, N_COEFFICIENTS, side, side), numpy.float32)
    prototypes[0, 0] = 8
    prototypes[0, 1] = numpy.where(numpy.arange(side) < 96 // PROTOTYPE_STRIDE, 8, -8)
    constants = [("boxes", boxes), ("prototypes", prototypes), ("zero", numpy.zeros(1, numpy.float32))]
    # The answer is the same for each image, and yet needs one.
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["boxes", "nothing"], ["output0"]),
        helper.make_node("Add", ["prototypes", "nothing"], ["output1"]),
    ]
    outputs = [("output0", boxes.shape), ("output1", prototypes.shape)]
    return graph(nodes, [1, 3, YOLO_SIDE, YOLO_SIDE], outputs, constants)


def yolo_seg():
    """Stricter than Ultralytics: without the boxes at 0.6 and 0.5."""
    names = ", ".join(f'"{label}"' for label in LABELS)
    limits = f'prototypes = "output1"\nthreshold = 0.55\niou_threshold = 0.5\nlabels = [{names}]\n'
    size = (YOLO_SIDE, YOLO_SIDE)
    return (
        yolo_graph(),
        package("yolo-seg", "yolo-seg", "output0", size=size, fit="letterbox", more_output=limits),
        picture(128, 64),
        mask(128, 64, (8, 8, 40, 40, 1), (10, 8, 42, 40, 2), (64, 16, 96, 56, 3), (100, -10, 140, 10, 4)),
    )


def yolo_seg_export():
    """An Ultralytics export: no model.toml, its metadata, and its predictor's thresholds (0.25 and 0.7)."""
    model, _, pixels, _ = yolo_seg()
    metadata = {
        "author": "test",
        "license": "CC0-1.0",
        "version": "1.0",
        "stride": "32",
        "task": "segment",
        "batch": "1",
        "imgsz": str([YOLO_SIDE, YOLO_SIDE]),
        "names": str(dict(enumerate(LABELS))),
    }
    helper.set_model_props(model, metadata)
    areas = [(8, 8, 40, 40, 1), (10, 8, 42, 40, 2), (64, 16, 96, 56, 3), (100, -10, 140, 10, 4), (80, 16, 136, 56, 5)]
    return model, None, pixels, mask(128, 64, *areas)


def broken():
    """Each as name, (network as bytes or None, model.toml or None), what is wrong."""
    good, toml, _, _ = binary()
    whole = good.SerializeToString()
    three = graph([helper.make_node("Relu", ["image"], ["mean"])], [1, 3, 64, 64], [("mean", [1, 3, 64, 64])])
    unknown = helper.make_node("Telepathy", ["image"], ["mean"], domain="segfleet.test")
    foreign = graph([unknown], [1, 3, 64, 64], [("mean", [1, 1, 64, 64])])
    yolo, yolo_toml, _, _ = yolo_seg()
    yolo = yolo.SerializeToString()
    detect, _, _, _ = yolo_seg_export()
    for entry in detect.metadata_props:
        entry.value = "detect" if entry.key == "task" else entry.value
    yield "missing-output", (whole, toml.replace('"mean"', '"median"')), "the network has no output `median`"
    yield "wrong-shape", (three.SerializeToString(), toml), "`mean` has 3 channels; a binary head needs one"
    yield "wrong-size", (whole, toml.replace("[64, 64]", "[32, 32]")), "the network's input is 64 x 64"
    yield "unsupported-operator", (foreign.SerializeToString(), toml), "the operator Telepathy of segfleet.test"
    yield "truncated", (yolo[: len(yolo) // 2], yolo_toml), "model.onnx ends too early"
    yield "missing-prototypes", (yolo, yolo_toml.replace('"output1"', '"output2"')), "there is no output `output2`"
    yield "unknown-key", (whole, toml.replace("threshold", "treshold")), "the key `treshold`"
    yield "missing-licence", (whole, toml.replace('licence = "CC0-1.0"\n', "")), "the key `licence` is missing"
    yield "unknown-head", (whole, toml.replace('"binary"', '"unary"')), "the head `unary`"
    yield "no-std", (whole, toml.replace("std = [1.0, 1.0, 1.0]", "std = [1.0, 0.0, 1.0]")), "a deviation of 0"
    yield "not-toml", (whole, "name: binary\n"), "model.toml is not TOML"
    yield "no-graph", (None, toml), "model.onnx is missing"
    yield "no-toml", (whole, None), "model.toml is missing, and the network is no Ultralytics export"
    yield "other-task", (detect.SerializeToString(), None), "an Ultralytics export of the task `detect`"


WORKING = [
    binary,
    binary_letterbox,
    binary_nhwc_bgr,
    semantic,
    semantic_coarse,
    semantic_classes,
    text,
    yolo_seg,
    yolo_seg_export,
]


def write(folder, network, toml):
    folder.mkdir(parents=True)
    if network is not None:
        (folder / "model.onnx").write_bytes(network)
    if toml is not None:
        (folder / "model.toml").write_text(toml)


def main(folder):
    folder = pathlib.Path(folder)
    for name in ("images", "expected"):
        (folder / name).mkdir(parents=True)
    for build in WORKING:
        name = build.__name__.replace("_", "-")
        network, toml, pixels, expected = build()
        onnx.checker.check_model(network, full_check=True)
        write(folder / "packages" / name, network.SerializeToString(), toml)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
        Image.fromarray(expected).save(folder / "expected" / f"{name}.png")
    wrong = {}
    for name, files, what in broken():
        write(folder / "broken" / name, *files)
        wrong[name] = what
    (folder / "broken.json").write_text(json.dumps(wrong, indent=1) + "\n")


main(*sys.argv[1:])
