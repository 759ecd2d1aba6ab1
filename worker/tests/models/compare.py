#!/usr/bin/env python3
"""Compares masks in two folders, PNG by PNG of the same name: intersection over union.

    compare.py [--labels] [--at-least 0.99] FOLDER FOLDER

A pixel is foreground where it is not 0. With --labels a pixel is common only where its label is the same. Two empty
masks are the same. Fails if one is below the bound, is of another size, or is missing from the other folder.
"""

import argparse
import pathlib
import sys

import numpy
from PIL import Image


def read(path, has_labels):
    pixels = numpy.array(Image.open(path).convert("L"))
    return pixels if has_labels else pixels != 0


def compare(one, other):
    if one.shape != other.shape:
        return 0.0, f"{one.shape} and {other.shape}"
    either = (one != 0) | (other != 0)
    common = either & (one == other)
    n_either, n_common = int(either.sum()), int(common.sum())
    return (n_common / n_either if n_either else 1.0), f"{n_either} px, {n_either - n_common} of them different"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--at-least", type=float, default=0.99)
    parser.add_argument("folders", type=pathlib.Path, nargs=2)
    options = parser.parse_args()
    names = [{path.name for path in folder.glob("*.png")} for folder in options.folders]
    bad = sorted(names[0] ^ names[1])
    for name in bad:
        print(f"missing {name}")
    for name in sorted(names[0] & names[1]):
        share, what = compare(*(read(folder / name, options.labels) for folder in options.folders))
        print(f"{share:.4f} {name}: {what}")
        if share < options.at_least:
            bad.append(name)
    if not any(names):
        sys.exit("compare.py: no masks")
    if bad:
        sys.exit(f"compare.py: {len(bad)} below {options.at_least} or missing: {', '.join(bad)}")


main()
