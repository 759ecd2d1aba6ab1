#!/usr/bin/env python3
"""What a model finds in images, by a pipeline that shares no code with the worker's: NumPy, Pillow, OpenCV and ONNX
Runtime.

    reference.py [--threads N] [--repeat N] [--print] PACKAGE FOLDER IMAGE...

PACKAGE is a folder with model.onnx and model.toml, or with an Ultralytics export alone. An IMAGE is its decoded
pixels, RGB: a PNG, a binary PPM, or an array of height x width x 3 bytes as .npy. For each, FOLDER gets a PNG of the image's
name and size: 0 where nothing is, else 255, or the label (the class of `semantic`, the object's number of `yolo-seg`).
One line of JSON on the output for each image says how long each step took, at best of N times (1), and what was found.
--print writes masks as text too: `.` and `#`, or labels.
"""

import argparse
import ast
import dataclasses
import json
import os
import pathlib
import time
import tomllib

# Before the library is loaded: it would send usage data, and keep an identifier of the machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import heads
import numpy
import onnxruntime
from PIL import Image

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos3": Image.Resampling.LANCZOS,
}
# What a package need not say.
INPUT = {
    "fit": "stretch",
    "pad": 114,
    "layout": "nchw",
    "channels": "rgb",
    "filter": "bilinear",
    "scale": 1.0,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
}
OUTPUT = {
    "binary": {"threshold": 0.5},
    "semantic": {},
    "text": {"threshold": 0.3, "box_threshold": 0.5, "grow": 1.6, "min_side_px": 3},
    "yolo-seg": {"threshold": 0.25, "iou_threshold": 0.7},
}
HEADS = {"binary": heads.binary, "semantic": heads.semantic, "text": heads.text, "yolo-seg": heads.yolo_seg}


class Package:
    """A model, and what it wants its input and makes of its output to be."""

    def __init__(self, folder, n_threads):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        path = folder / "model.onnx"
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        described = folder / "model.toml"
        if described.exists():
            settings = tomllib.loads(described.read_text())
        else:
            settings = ultralytics(self.session.get_modelmeta().custom_metadata_map)
        self.input = INPUT | settings["input"]
        self.output = OUTPUT[settings["output"]["head"]] | settings["output"]
        there = [output.name for output in self.session.get_outputs()]
        self.output_names = [self.output.get("name", there[0])]
        if self.output["head"] == "yolo-seg":
            self.output_names.append(self.output.get("prototypes", there[1]))

    def infer(self, tensor):
        return self.session.run(self.output_names, {self.session.get_inputs()[0].name: tensor})


def ultralytics(metadata):
    """The settings that Ultralytics' own predictor has for its exports."""
    assert metadata["task"] == "segment", metadata
    names = ast.literal_eval(metadata["names"])
    return {
        "input": {
            "size": ast.literal_eval(metadata["imgsz"]),
            "fit": "letterbox",
            "scale": 1 / 255,
        },
        "output": {
            "head": "yolo-seg",
            "name": "output0",
            "prototypes": "output1",
            "labels": [names[class_idx] for class_idx in sorted(names)],
        },
    }


def network_size(settings, height, width):
    """Height and width of the network's input for an image."""
    if "size" in settings:
        return tuple(settings["size"])
    scale = max(1.0, settings["short_side"] / min(height, width))
    scale = min(scale, settings["max_side"] / max(height, width))
    step = settings["multiple_of"]
    # To the nearest multiple, halves up.
    return tuple(max(1, int(side * scale / step + 0.5)) * step for side in (height, width))


def prepare(pixels, settings):
    """The network's input for `pixels`, height x width x 3 bytes of RGB, and where the image lies in it."""
    height, width = pixels.shape[:2]
    frame = heads.Frame((height, width), network_size(settings, height, width))
    if settings["fit"] == "letterbox":
        frame = letterbox(frame)
    _, _, inner_height, inner_width = frame.inside
    resized = Image.fromarray(pixels).resize((inner_width, inner_height), FILTERS[settings["filter"]])
    canvas = numpy.full((*frame.network, 3), settings["pad"], numpy.uint8)
    top, left = frame.inside[:2]
    canvas[top : top + inner_height, left : left + inner_width] = numpy.asarray(resized)
    if settings["channels"] == "bgr":
        canvas = canvas[..., ::-1]
    mean, std = (numpy.array(settings[key], numpy.float32) for key in ("mean", "std"))
    tensor = (canvas.astype(numpy.float32) * numpy.float32(settings["scale"]) - mean) / std
    if settings["layout"] == "nchw":
        tensor = tensor.transpose(2, 0, 1)
    return numpy.ascontiguousarray(tensor[None]), frame


def letterbox(frame):
    """The image keeps its shape and lies in the middle; an odd pixel of padding goes below and to the right."""
    scale = min(of_network / of_image for of_network, of_image in zip(frame.network, frame.image))
    size = [max(1, round(side * scale)) for side in frame.image]
    before = [(outer - inner) // 2 for outer, inner in zip(frame.network, size)]
    return dataclasses.replace(frame, inside=(*before, *size))


def read(path):
    if path.suffix == ".npy":
        return numpy.load(path)
    return numpy.array(Image.open(path).convert("RGB"))


def find(package, pixels):
    """The labels of the pixels, what was found, and the seconds that preparing, inference and the head took."""
    times = [time.perf_counter()]
    tensor, frame = prepare(pixels, package.input)
    times.append(time.perf_counter())
    outputs = package.infer(tensor)
    times.append(time.perf_counter())
    labels, found = HEADS[package.output["head"]](outputs, frame, package.output)
    times.append(time.perf_counter())
    return labels, found, numpy.diff(times)


def to_text(labels):
    symbols = ".123456789abcdefghijklmnopqrstuvwxyz"
    if labels.max() <= 1:
        symbols = ".#"
    return "\n".join("".join(symbols[label] for label in row) for row in labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--print", action="store_true")
    parser.add_argument("package", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("images", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    package = Package(options.package, options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    for path in options.images:
        runs = [find(package, read(path)) for _ in range(options.repeat)]
        labels, found, _ = runs[0]
        best_ms = numpy.min([times for _, _, times in runs], axis=0) * 1000
        is_labelled = package.output["head"] in ("semantic", "yolo-seg")
        Image.fromarray(labels if is_labelled else labels * 255).save(options.folder / f"{path.stem}.png")
        times_ms = zip(("prepare_ms", "infer_ms", "head_ms"), best_ms.round(3).tolist())
        print(json.dumps({"image": path.name, **dict(times_ms), "found": found}), flush=True)
        if options.print:
            print(to_text(labels), flush=True)


if __name__ == "__main__":
    main()
