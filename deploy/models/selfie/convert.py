#!/usr/bin/env python3
"""Converts MediaPipe's selfie segmentation from TFLite to ONNX, and checks the result against LiteRT.

    convert.py MODEL.tflite MODEL.onnx

Knows the operators of this one network. It holds its weights in half precision behind DEQUANTIZE, which becomes
constants, and ends in one operator of MediaPipe's own, a transposed convolution with bias. Tensors are turned from
TFLite's NHWC to NCHW. Nothing is written if the check fails.
"""

import os
import sys

# Before the library is loaded: it would send usage data, and keep an identifier of the machine.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import flatbuffers
import numpy
import onnx
import onnxruntime
import tflite
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import TensorProto, helper, numpy_helper

OUTPUT_TOLERANCE = 3e-4  # Of probabilities.
INNER_TOLERANCE = 1e-4  # Of a tensor's largest value: there are values beyond a hundred.
OPSET = 17
OPERATORS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
NUMPY_TYPES = {tflite.TensorType.FLOAT32: "<f4", tflite.TensorType.FLOAT16: "<f2", tflite.TensorType.INT32: "<i4"}
# Operators without options: one node with the same inputs.
PLAIN = {"ADD": "Add", "MUL": "Mul", "RELU": "Relu", "LOGISTIC": "Sigmoid", "HARD_SWISH": "HardSwish"}


class Converter:
    """The network, its operators in order, and the nodes and constants made of them so far."""

    def __init__(self, data):
        self.model = tflite.Model.GetRootAsModel(data, 0)
        self.graph = self.model.Subgraphs(0)
        self.constants = {}  # Of TFLite's tensors, by index, in its own layout.
        self.nodes = []
        self.initializers = []

    def convert(self):
        for operator_idx in range(self.graph.OperatorsLength()):
            self.convert_operator(self.graph.Operators(operator_idx))
        graph = helper.make_graph(
            self.nodes,
            "selfie_segmentation",
            [self.describe(self.graph.Inputs(0))],
            [self.describe(self.graph.Outputs(0))],
            self.initializers,
        )
        # The oldest format that has the operators: readers of any age take it.
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def convert_operator(self, operator):
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        kind = OPERATORS[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        inputs = list(operator.InputsAsNumpy())
        output = operator.Outputs(0)
        if kind == "DEQUANTIZE":
            self.constants[output] = self.constant(inputs[0]).astype(numpy.float32)
        elif kind in PLAIN:
            self.add(PLAIN[kind], [self.name(idx) for idx in inputs], output)
        elif kind == "CONV_2D":
            self.convolution(operator, tflite.Conv2DOptions(), inputs, output, axes=(0, 3, 1, 2))
        elif kind == "DEPTHWISE_CONV_2D":
            self.convolution(operator, tflite.DepthwiseConv2DOptions(), inputs, output, axes=(3, 0, 1, 2))
        elif kind == "AVERAGE_POOL_2D":
            self.average(operator, inputs[0], output)
        elif kind == "RESIZE_BILINEAR":
            self.resize(operator, inputs, output)
        elif kind == "CUSTOM" and code.CustomCode() == b"Convolution2DTransposeBias":
            self.transposed(operator, inputs, output)
        else:
            sys.exit(f"convert.py: no operator is known for {kind}")

    def convolution(self, operator, options, inputs, output, axes):
        options = with_options(operator, options)
        weights = self.constant(inputs[1]).transpose(axes)
        strides = [options.StrideH(), options.StrideW()]
        pads = [[0, 0], [0, 0]]
        if options.Padding() == tflite.Padding.SAME:
            sides = zip(self.shape(inputs[0])[1:3], self.shape(output)[1:3], weights.shape[2:], strides)
            pads = [split((n_out - 1) * stride + kernel - n_in) for n_in, n_out, kernel, stride in sides]
        names = [
            self.name(inputs[0]),
            self.store(weights, inputs[1]),
            self.store(self.constant(inputs[2]), inputs[2]),
        ]
        group = self.shape(inputs[0])[3] // weights.shape[1]
        self.add("Conv", names, output, strides=strides, group=group, pads=[*next(zip(*pads)), *list(zip(*pads))[1]])

    def average(self, operator, source, output):
        options = with_options(operator, tflite.Pool2DOptions())
        whole = self.shape(source)[1:3]
        assert [options.FilterHeight(), options.FilterWidth()] == whole, "only the average of all pixels is known"
        self.add("GlobalAveragePool", [self.name(source)], output)

    def resize(self, operator, inputs, output):
        options = with_options(operator, tflite.ResizeBilinearOptions())
        assert options.HalfPixelCenters() and not options.AlignCorners(), "only half-pixel centres are known"
        before, after = self.shape(inputs[0]), self.shape(output)
        scales = numpy.array([1, 1, after[1] / before[1], after[2] / before[2]], numpy.float32)
        names = [self.name(inputs[0]), "", self.store(scales, output)]
        self.add("Resize", names, output, mode="linear", coordinate_transformation_mode="half_pixel")

    def transposed(self, operator, inputs, output):
        padding, *strides = operator.CustomOptionsAsNumpy().view("<i4").tolist()
        weights = self.constant(inputs[1]).transpose(3, 0, 1, 2)
        # Then no output pixel has two sources, and there is nothing to pad or to cut off.
        assert padding == 1 and list(weights.shape[2:]) == strides, "only steps of the kernel's size are known"
        names = [
            self.name(inputs[0]),
            self.store(weights, inputs[1]),
            self.store(self.constant(inputs[2]), inputs[2]),
        ]
        self.add("ConvTranspose", names, output, strides=strides)

    def add(self, kind, names, output, **attributes):
        self.nodes.append(helper.make_node(kind, names, [self.name(output)], **attributes))

    def store(self, values, idx):
        name = f"constant_{idx}"
        self.initializers.append(numpy_helper.from_array(numpy.ascontiguousarray(values), name))
        return name

    def constant(self, idx):
        if idx not in self.constants:
            tensor = self.graph.Tensors(idx)
            data = self.model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
            self.constants[idx] = numpy.frombuffer(data, NUMPY_TYPES[tensor.Type()]).reshape(self.shape(idx))
        return self.constants[idx]

    def name(self, idx):
        return self.graph.Tensors(idx).Name().decode()

    def shape(self, idx):
        return self.graph.Tensors(idx).ShapeAsNumpy().tolist()

    def describe(self, idx):
        n_images, height, width, n_channels = self.shape(idx)
        return helper.make_tensor_value_info(self.name(idx), TensorProto.FLOAT, [n_images, n_channels, height, width])


def with_options(operator, options):
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
    fused = getattr(options, "FusedActivationFunction", lambda: tflite.ActivationFunctionType.NONE)
    assert fused() == tflite.ActivationFunctionType.NONE, "no fused activation is known"
    return options


def split(n_pixels):
    """TFLite's padding "same": the smaller half before."""
    n_pixels = max(n_pixels, 0)
    return n_pixels // 2, n_pixels - n_pixels // 2


def check(data, model):
    """The largest differences to LiteRT, on noise and on shapes: in the output, and in all tensors before it as a share
    of each tensor's largest value.

    LiteRT has the operator of MediaPipe's own only in its delegate, which shows no tensors but the last: so the whole
    network runs with the delegate, and all before that operator without.
    """
    for node in model.graph.node[:-1]:
        model.graph.output.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    whole = Interpreter(model_content=data)
    trunk = Interpreter(
        model_content=without_last(data, n_operators=2),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    inner = outer = 0.0
    for pixels in images(whole.get_input_details()[0]["shape"]):
        found = dict(zip(names, session.run(names, {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})))
        expected = run(trunk, pixels, model.graph.node[:-2]) | run(whole, pixels, model.graph.node[-1:])
        for name, theirs in expected.items():
            assert found[name].shape == theirs.shape, f"{name}: {found[name].shape} is not {theirs.shape}"
            apart = float(numpy.abs(found[name] - theirs).max())
            if name == names[0]:
                outer = max(outer, apart)
            else:
                inner = max(inner, apart / max(1.0, float(numpy.abs(theirs).max())))
    return outer, inner


def without_last(data, n_operators):
    model = schema.ModelT.InitFromPackedBuf(data)
    graph = model.subgraphs[0]
    graph.operators = graph.operators[:-n_operators]
    graph.outputs = graph.operators[-1].outputs
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def run(interpreter, pixels, nodes):
    """What LiteRT finds for the outputs of `nodes`."""
    interpreter.allocate_tensors()
    tensors = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details()}
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    names = [node.output[0] for node in nodes]
    return {name: interpreter.get_tensor(tensors[name]).transpose(0, 3, 1, 2) for name in names}


def images(shape):
    random = numpy.random.default_rng(1)
    yield numpy.zeros(shape, numpy.float32)
    yield random.random(shape, numpy.float32)
    _, height, width, _ = shape
    rows, columns = numpy.mgrid[0:height, 0:width]
    disc = numpy.hypot(rows - height * 0.6, columns - width * 0.5) < height * 0.3
    ramp = numpy.stack([rows / height, columns / width, 1 - rows / height], axis=-1)
    yield numpy.where(disc[..., None], 0.9 - 0.4 * ramp, 0.3 * ramp)[None].astype(numpy.float32)


def main(source, target):
    with open(source, "rb") as file:
        data = file.read()
    model = Converter(data).convert()
    onnx.checker.check_model(model, full_check=True)
    whole = model.SerializeToString(deterministic=True)
    outer, inner = check(data, model)
    print(f"differs from LiteRT by at most {outer:.1e} in the output and by {inner:.1e} of the largest value inside")
    if not (outer <= OUTPUT_TOLERANCE and inner <= INNER_TOLERANCE):
        sys.exit(f"convert.py: more than {OUTPUT_TOLERANCE} or {INNER_TOLERANCE}")
    with open(target, "wb") as file:
        file.write(whole)


main(*sys.argv[1:])
