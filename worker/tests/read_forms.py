#!/usr/bin/env python3
"""Reads what `segfleet-worker outline` writes, with the tools it is written for, and compares it with the mask.

    read_forms.py SEGFLEET_WORKER FOLDER

FOLDER has masks as PNG; those whose names end in -labels.png have labels. Everything is read exactly, and outlines
that were simplified are valid and near.
"""

import base64
import contextlib
import io
import json
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import numpy
from PIL import Image
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from shapely.geometry import Polygon, shape


class Mask:
    """A mask, and the command that outlines it."""

    def __init__(self, worker, path):
        self.path = path
        self.pixels = numpy.array(Image.open(path)).astype(int)
        self.has_labels = path.name.endswith("-labels.png")
        self.command = [worker, "outline", path] + (["--labels"] if self.has_labels else [])

    def outline(self, form, *options):
        command = [*self.command, "--format", form, *options]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout

    def check_pixels(self, objects):
        """`objects` are (instance, pixels): together they are the mask, and none overlaps another."""
        total = numpy.zeros_like(self.pixels)
        for instance, pixels in objects:
            assert not (total[pixels] != 0).any(), f"{instance} overlaps another object"
            total[pixels] = instance if self.has_labels else 1
        expected = self.pixels if self.has_labels else self.pixels != 0
        assert (total == expected).all(), f"{(total != expected).sum()} pixels differ"


def read_coco(mask):
    file = mask.path.with_suffix(".coco.json")
    file.write_bytes(mask.outline("coco"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    objects = []
    for annotation in coco.anns.values():
        pixels = coco.annToMask(annotation).astype(bool)
        assert pixels.sum() == annotation["area"]
        assert list(run_lengths.toBbox(coco.annToRLE(annotation))) == annotation["bbox"]
        objects.append((annotation.get("instance"), pixels))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds(supNms=[""]))] == ["object"]
    mask.check_pixels(objects)
    read_results(mask, coco)


def read_results(mask, coco):
    """Simplified or not, run lengths are the mask."""
    file = mask.path.with_suffix(".rle.json")
    for options in ([], ["--simplify", "8"]):
        file.write_bytes(mask.outline("rle", *options))
        with contextlib.redirect_stdout(io.StringIO()):
            results = coco.loadRes(str(file))
        found = results.anns.values()
        mask.check_pixels((one.get("instance"), results.annToMask(one).astype(bool)) for one in found)


def read_geojson(mask):
    exact = json.loads(mask.outline("geojson"))["features"]
    for feature in exact:
        geometry = shape(feature["geometry"])
        assert geometry.is_valid
        assert geometry.area == feature["properties"]["area_px"]
    for tolerance_px in (0.75, 2.0, 20.0):
        simple = json.loads(mask.outline("geojson", "--simplify", str(tolerance_px)))["features"]
        assert len(simple) == len(exact)
        for before, after in zip(exact, simple):
            check_simplified(shape(before["geometry"]), after, tolerance_px)
    for feature in json.loads(mask.outline("geojson", "--max-vertices", "12"))["features"]:
        geometry = shape(feature["geometry"])
        assert geometry.is_valid
        rings = [ring for part in geometry.geoms for ring in (part.exterior, *part.interiors)]
        assert sum(len(ring.coords) - 1 for ring in rings) <= 12


def check_simplified(exact, feature, tolerance_px):
    geometry = shape(feature["geometry"])
    assert geometry.is_valid
    assert len(geometry.geoms) == len(exact.geoms)
    deviation_px = feature["properties"]["deviation_px"]
    assert deviation_px <= tolerance_px
    apart_px = exact.boundary.hausdorff_distance(geometry.boundary)
    assert apart_px <= deviation_px + 1e-9, f"{apart_px} px apart, {deviation_px} said"


def read_yolo(mask):
    height, width = mask.pixels.shape
    text = mask.outline("yolo").decode()
    parts = [polygon for found in json.loads(mask.outline("polygons"))["objects"] for polygon in found["polygons"]]
    assert len(text.splitlines()) == len(parts)
    for line, part in zip(text.splitlines(), parts):
        number, *shares = line.split()
        assert number == "0"
        vertices = [(float(x) * width, float(y) * height) for x, y in zip(shares[::2], shares[1::2])]
        assert numpy.allclose(vertices, part["exterior"], atol=1e-3)


def read_labelme(mask):
    document = json.loads(mask.outline("labelme"))
    assert base64.b64decode(document["imageData"]) == mask.path.read_bytes()
    assert (document["imageHeight"], document["imageWidth"]) == mask.pixels.shape
    total = 0
    for found in document["shapes"]:
        if found["shape_type"] == "mask":
            (left, top), (right, bottom) = found["points"]
            pixels = numpy.array(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
            assert pixels.shape == (bottom - top + 1, right - left + 1)
            inside = mask.pixels[top:bottom + 1, left:right + 1][pixels > 0]
            assert len(set(inside)) == 1 if mask.has_labels else (inside > 0).all()
            total += (pixels > 0).sum()
        else:
            total += Polygon(found["points"]).area
    assert total == (mask.pixels > 0).sum()


def read_svg(mask):
    root = xml.etree.ElementTree.fromstring(mask.outline("svg"))
    name = "{http://www.w3.org/2000/svg}"
    assert root.get("viewBox") == f"0 0 {mask.pixels.shape[1]} {mask.pixels.shape[0]}"
    file = root.find(f"{name}image").get("href").removeprefix("data:image/png;base64,")
    assert base64.b64decode(file) == mask.path.read_bytes()
    assert len(root.findall(f"{name}g/{name}path")) == len(json.loads(mask.outline("polygons"))["objects"])


def read_png(mask):
    picture = numpy.array(Image.open(io.BytesIO(mask.outline("png"))).convert("RGB")).astype(int)
    shown = numpy.array(Image.open(mask.path).convert("RGB"))
    changed = (picture != shown).any(axis=2)
    # Every object is coloured; outside there are only labels.
    assert changed[mask.pixels > 0].all()


READERS = [read_coco, read_geojson, read_yolo, read_labelme, read_svg, read_png]


def main(worker, folder):
    masks = sorted(pathlib.Path(folder).glob("*.png"))
    for path in masks:
        for reader in READERS:
            try:
                reader(Mask(worker, path))
            except AssertionError:
                print(f"{reader.__name__} of {path.name}")
                raise
    print(f"{len(masks)} masks, {len(READERS)} readers")


main(*sys.argv[1:])
