"""What the outputs of networks mean, in NumPy: one function for each head.

Each takes the network's outputs in the order of the package, the frame, and the package's `[output]`; each returns an
array of the image's height x width bytes, 0 where nothing is, and what it found in a form for people. Masks are decided
at the image's scale: what the network says is read between its pixels' centres, then compared.
"""

import dataclasses

import cv2
import numpy


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where an image lies in the network's input. Sizes are (height, width)."""

    image: tuple
    network: tuple
    # Top, left, height, width of the image in the network's input; the rest is padding.
    inside: tuple = None

    def __post_init__(self):
        if self.inside is None:
            object.__setattr__(self, "inside", (0, 0, *self.network))

    def to_network(self, rows, columns):
        """From the image's corner coordinates to those of the network's input."""
        top, left, height, width = self.inside
        return rows * (height / self.image[0]) + top, columns * (width / self.image[1]) + left

    def to_image(self, rows, columns):
        top, left, height, width = self.inside
        return (rows - top) * (self.image[0] / height), (columns - left) * (self.image[1] / width)

    def upsample(self, planes):
        """Planes x height x width of any size that cover the network's input, at the centres of the image's pixels.

        Linear between the centres of the planes' pixels, and constant outside the outermost.
        """
        rows, columns = self.to_network(numpy.arange(self.image[0]) + 0.5, numpy.arange(self.image[1]) + 0.5)
        above, below, row_share = neighbours(rows * (planes.shape[1] / self.network[0]) - 0.5, planes.shape[1])
        before, after, column_share = neighbours(columns * (planes.shape[2] / self.network[1]) - 0.5, planes.shape[2])
        planes = planes[:, :, before] * (1 - column_share) + planes[:, :, after] * column_share
        return planes[:, above] * (1 - row_share[:, None]) + planes[:, below] * row_share[:, None]


def neighbours(at, n):
    at = numpy.clip(at, 0, n - 1)
    first = numpy.floor(at).astype(int)
    return first, numpy.minimum(first + 1, n - 1), (at - first).astype(numpy.float32)


def binary(outputs, frame, settings):
    """One map of probabilities."""
    probability = frame.upsample(outputs[0].reshape(1, *outputs[0].shape[-2:]))[0]
    return (probability > settings["threshold"]).astype(numpy.uint8), {"highest": round(float(probability.max()), 4)}


def semantic(outputs, frame, settings):
    """Logits, 1 x classes x height x width: the class with the highest; or the classes, 1 x height x width. Class 0 is
    the background.
    """
    output = outputs[0]
    if output.ndim == 4:
        labels = frame.upsample(output[0]).argmax(axis=0)
    else:
        # Classes have no values between them: of the pixel that is there.
        rows, columns = frame.to_network(numpy.arange(frame.image[0]) + 0.5, numpy.arange(frame.image[1]) + 0.5)
        rows = numpy.floor(rows * (output.shape[1] / frame.network[0])).astype(int)
        columns = numpy.floor(columns * (output.shape[2] / frame.network[1])).astype(int)
        labels = output[0][rows][:, columns]
    names = settings.get("labels")
    areas_px = {(names[label] if names else str(label)): int((labels == label).sum()) for label in numpy.unique(labels)}
    return labels.astype(numpy.uint8), {"areas_px": areas_px}


def text(outputs, frame, settings):
    """Differentiable binarisation, as PaddleOCR reads it: the network finds the core of each line.

    Pixels over the threshold are dilated by 2 x 2 (each also marks those right of it, below it and between) and
    joined, 8-connected. The rectangle of least area around the centres of a component's pixels, in any direction, is
    that of the undilated pixels in corner coordinates. It counts if its shorter side is long enough and the mean
    probability of the pixels whose centres it holds is high enough. It grows on each side by
    area * grow / perimeter; its corners are scaled to the image, and it marks the pixels whose centres it holds.
    """
    probability = outputs[0].reshape(outputs[0].shape[-2:])
    cores = (probability > settings["threshold"]).astype(numpy.uint8)
    cores = cv2.dilate(cores, numpy.ones((2, 2), numpy.uint8))
    contours, hierarchy = cv2.findContours(cores, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    labels = numpy.zeros(frame.image, numpy.uint8)
    boxes = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0] if len(contours) else []):
        if parent != -1:
            continue  # The border of a hole.
        centre, (width, height), degrees = cv2.minAreaRect(contour)
        if min(width, height) < settings["min_side_px"]:
            continue
        box = cv2.boxPoints((centre, (width, height), degrees))
        region, inside = pixels_within(box, probability.shape)
        if not inside.any() or probability[region][inside].mean() < settings["box_threshold"]:
            continue
        distance = width * height * settings["grow"] / (2 * (width + height))
        box = cv2.boxPoints((centre, (width + 2 * distance, height + 2 * distance), degrees))
        scale_y, scale_x = (network / of_map for network, of_map in zip(frame.network, probability.shape))
        rows, columns = frame.to_image(box[:, 1] * scale_y, box[:, 0] * scale_x)
        box = numpy.stack([columns, rows], axis=1)
        region, inside = pixels_within(box, frame.image)
        labels[region] |= inside.astype(numpy.uint8)
        boxes.append(box.round(1).tolist())
    return labels, {"boxes": boxes}


def pixels_within(box, size):
    """The pixels of an image of `size` whose centres lie in the convex `box`, n x (x, y) in corner coordinates: a
    region of the image, and which of its pixels.
    """
    left, top = numpy.clip(numpy.floor(box.min(axis=0)).astype(int), 0, size[::-1])
    right, bottom = numpy.clip(numpy.ceil(box.max(axis=0)).astype(int), 0, size[::-1])
    rows, columns = numpy.mgrid[top:bottom, left:right] + 0.5
    sides = []
    for (x, y), (next_x, next_y) in zip(box, numpy.roll(box, -1, axis=0)):
        sides.append((next_x - x) * (rows - y) - (next_y - y) * (columns - x))
    sides = numpy.array(sides)
    inside = (sides >= 0).all(axis=0) | (sides <= 0).all(axis=0)
    return (slice(top, bottom), slice(left, right)), inside


def yolo_seg(outputs, frame, settings):
    """Ultralytics' layout: 1 x (4 + classes + coefficients) x boxes, and prototypes, 1 x coefficients x height x width.

    A box is its centre and size in pixels of the network's input, then one probability for each class. The best class
    counts; boxes over the threshold are taken from the most probable on, without those that overlap one of the same
    class that was taken by more than `iou_threshold`. A box's mask is where the sigmoid of its prototypes' sum,
    weighted with its coefficients, is over 0.5 at the image's scale, and the pixel's centre is in the box. Where masks
    overlap, the more probable has the pixel.
    """
    boxes, prototypes = outputs[0][0].T, outputs[1][0]
    n_classes = boxes.shape[1] - 4 - prototypes.shape[0]
    scores = boxes[:, 4 : 4 + n_classes]
    classes, scores = scores.argmax(axis=1), scores.max(axis=1)
    corners = numpy.concatenate([boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2], axis=1)
    labels = numpy.zeros(frame.image, numpy.uint8)
    taken = []
    found = []
    for box_idx in numpy.argsort(-scores, kind="stable"):
        if scores[box_idx] <= settings["threshold"]:
            break
        rivals = [other for other in taken if classes[other] == classes[box_idx]]
        if any(overlap(corners[box_idx], corners[other]) > settings["iou_threshold"] for other in rivals):
            continue
        taken.append(box_idx)
        mask = one_mask(boxes[box_idx, 4 + n_classes :], prototypes, corners[box_idx], frame)
        labels[mask & (labels == 0)] = len(taken)
        names = settings.get("labels")
        name = names[classes[box_idx]] if names else str(classes[box_idx])
        found.append({"label": name, "score": round(float(scores[box_idx]), 4), "area_px": int(mask.sum())})
    return labels, {"objects": found}


def one_mask(coefficients, prototypes, corners, frame):
    probability = 1 / (1 + numpy.exp(-numpy.tensordot(coefficients, prototypes, axes=1)))
    mask = frame.upsample(probability[None])[0] > 0.5
    (top, bottom), (left, right) = frame.to_image(corners[[1, 3]], corners[[0, 2]])
    rows, columns = numpy.mgrid[0 : frame.image[0], 0 : frame.image[1]] + 0.5
    return mask & (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def overlap(one, other):
    """Intersection over union of two boxes, (left, top, right, bottom)."""
    sides = numpy.minimum(one[2:], other[2:]) - numpy.maximum(one[:2], other[:2])
    common = numpy.clip(sides, 0, None).prod()
    return common / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - common)
