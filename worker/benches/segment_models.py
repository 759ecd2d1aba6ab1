#!/usr/bin/env python3
"""Times models on both engines and in the Python reference, on the same pixels, and prints them side by side.

Run by `segment-models` beside it, which gets what this needs and says what is printed.
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "worker/tests/models/reference.py"
BENCH = ["cargo", "bench", "--quiet", "--package", "segfleet-worker", "--bench", "segment", "--"]
ENGINES = ["onnxruntime", "rust"]
# How often ours and the reference take turns; of all the best counts, as others use the machine too.
ROUNDS = 3


@dataclasses.dataclass
class Case:
    name: str
    package: pathlib.Path
    pixels: numpy.ndarray
    # Times within a round: enough for the best to be steady.
    repeat: int = 10


def read(path):
    return numpy.array(Image.open(path).convert("RGB"))


def cases(models, photographs, work):
    # The package enlarges an image to 736 pixels; here the network is to have 640 x 640, as the page has.
    shutil.copytree(models / "text", work / "text")
    manifest = work / "text/model.toml"
    manifest.write_text(re.sub(r"(?m)^short_side = .*", "short_side = 640", manifest.read_text()))
    page = numpy.tile(read(photographs / "page.png"), (4, 2, 1))[:640, :640]
    person = read(photographs / "astronaut.png")
    return [
        Case("text", work / "text", page, 20),
        Case("u2netp", models / "u2netp", person, 6),
        Case("selfie", models / "selfie", person, 100),
    ]


def run(command):
    """The line of JSON that a command prints."""
    finished = subprocess.run([str(word) for word in command], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(finished.stdout)


def measure(case, library, work):
    """What each engine and the reference (None) take, in milliseconds and KiB."""
    image, array = work / f"{case.name}.png", work / f"{case.name}.npy"
    Image.fromarray(case.pixels).save(image)
    numpy.save(array, case.pixels)
    commands = {None: [sys.executable, REFERENCE, "--repeat", case.repeat, case.package, work / "masks", array]}
    for engine in ENGINES:
        commands[engine] = [*BENCH, "--repeat", case.repeat, "--engine", engine, case.package, image]
    commands["onnxruntime"] += ["--onnxruntime", library]
    runs = {who: [] for who in commands}
    for _ in range(ROUNDS):
        for who, command in commands.items():
            runs[who].append(run(command))
    return {who: best(of_one) for who, of_one in runs.items()}


def best(runs):
    return {key: min(run[key] for run in runs) for key in runs[0] if key.endswith(("_ms", "_kib"))}


def show(case, measured):
    reference = measured[None]
    theirs = reference["prepare_ms"] + reference["head_ms"]
    height, width = case.pixels.shape[:2]
    for engine in ENGINES:
        ours = measured[engine]
        around = ours["before_ms"] + ours["after_ms"]
        print(
            f"{case.name:<8} {f'{width}x{height}':>9} {engine:<11} "
            f"{ours['alone_ms']:>9.2f} {ours['whole_ms']:>9.2f} {ours['whole_ms'] / ours['alone_ms']:>6.3f} "
            f"{ours['before_ms']:>7.2f} {ours['after_ms']:>6.2f} "
            f"{reference['prepare_ms']:>10.2f} {reference['head_ms']:>6.2f} {theirs / around:>6.1f} "
            f"{theirs + reference['infer_ms']:>10.2f} {ours['memory_once_kib'] / 1024:>6.0f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("library", "models", "photographs", "package", "image"):
        parser.add_argument(f"--{name}", type=pathlib.Path)
    options = parser.parse_args()
    print("                                  network  ours:                          reference:                            ours:")
    print("model         image engine         alone     whole  ratio  before  after     before  after  ratio      whole    MiB")
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        if options.package:
            chosen = [Case(options.package.name, options.package, read(options.image))]
        else:
            chosen = cases(options.models, options.photographs, work)
        for case in chosen:
            show(case, measure(case, options.library, work))


main()
