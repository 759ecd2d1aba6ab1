#!/usr/bin/env python3
"""Times OpenCV's findContours on the masks of the benchmark `outline`, in the same run, and prints the ratios.

Run by `outline-opencv` beside it, which gets what this needs.
"""

import json
import os
import pathlib
import subprocess
import tempfile
import time

import cv2
import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = ["blobs", "clutter", "noise", "large", "empty"]
SIDES_PX = [512, 1024, 2048, 4096]


def opencv_ms(mask):
    """The median of 20 runs on one thread."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        times.append((time.perf_counter() - started) * 1e3)
    return sorted(times)[10]


def opencv_labels_ms(labels):
    """The best of three runs. Where each label is was found before and is not counted."""
    boxes = {}
    order = numpy.argsort(labels, axis=None, kind="stable")
    values, starts = numpy.unique(labels.ravel()[order], return_index=True)
    for label, indexes in zip(values, numpy.split(order, starts[1:])):
        ys, xs = numpy.divmod(indexes, labels.shape[1])
        boxes[label] = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
    times = []
    for _ in range(3):
        started = time.perf_counter()
        for label, box in boxes.items():
            mask = (labels[box] == label).astype(numpy.uint8)
            cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        times.append((time.perf_counter() - started) * 1e3)
    return min(times)


def ours_ms(folder, kind, form, side_px):
    estimates = pathlib.Path(folder) / "criterion" / kind / form / str(side_px) / "new" / "estimates.json"
    return json.loads(estimates.read_text())["median"]["point_estimate"] / 1e6


def main():
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "SEGFLEET_BENCH_MASKS": folder, "CRITERION_HOME": f"{folder}/criterion"}
        command = ["cargo", "bench", "--quiet", "--package", "segfleet-worker", "--bench", "outline"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        print("OpenCV's time as a multiple of ours, from a byte for each pixel and from packed bits")
        print(f"{'mask':<8} {'side':>5} {'OpenCV ms':>10} {'bytes ms':>9} {'bits ms':>9} {'ratio bytes':>12} {'bits':>6}")
        for kind in KINDS:
            for side_px in SIDES_PX:
                raw = numpy.fromfile(f"{folder}/{kind}-{side_px}.raw", numpy.uint8)
                theirs = opencv_ms(raw.reshape(side_px, side_px))
                from_bytes, from_bits = ours_ms(folder, kind, "bytes", side_px), ours_ms(folder, kind, "bits", side_px)
                print(f"{kind:<8} {side_px:>5} {theirs:>10.3f} {from_bytes:>9.3f} {from_bits:>9.3f} "
                      f"{theirs / from_bytes:>12.1f} {theirs / from_bits:>6.1f}")
        print("1,024 labels: OpenCV once for each, within its box")
        for side_px in SIDES_PX:
            raw = numpy.fromfile(f"{folder}/labels-{side_px}.raw", numpy.uint16)
            theirs = opencv_labels_ms(raw.reshape(side_px, side_px))
            ours = ours_ms(folder, "labels", "all", side_px)
            print(f"{'labels':<8} {side_px:>5} {theirs:>10.3f} {ours:>9.3f} {'':>9} {theirs / ours:>12.1f}")


main()
