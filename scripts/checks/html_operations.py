"""Every operation of the page's interpreter against ONNX Runtime, on random inputs, in Chromium.

    html_operations.py PROGRAM WORKDIR

needs onnx, onnxruntime and playwright; PROGRAM is not used. Fails on a difference, and where an operation has no case.
"""

import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper
from playwright.sync_api import sync_playwright

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "crates/exchange/src/html"
random = numpy.random.default_rng(0)
KINDS = {"float32": "Float32Array", "int64": "Int32Array", "uint8": "Uint8Array", "bool": "Uint8Array"}


def numbers(*shape):
    return random.standard_normal(shape).astype("float32")


def whole(*values):
    return numpy.array(values, dtype="int64")


def cases():
    """(operation, inputs, attributes), several of an operation where it has several ways."""
    x, positive, truth = numbers(2, 3, 5, 4), abs(numbers(2, 3)) + 0.5, numbers(3, 4) > 0
    for name in ("Identity Relu Abs Ceil Cos Elu Erf Exp Floor HardSigmoid HardSwish LeakyRelu Neg Round Sigmoid Sign "
                 "Sin Sinh Softplus Tan Tanh Asinh Atan Cosh").split():
        yield name, [3 * x], {}
    for name in "Log Reciprocal Sqrt".split():
        yield name, [positive], {}
    for name in "Acos Asin Atanh".split():
        yield name, [numpy.tanh(x)], {}
    yield "Acosh", [positive + 1], {}
    for name in "IsInf IsNaN".split():
        yield name, [numpy.array([1, numpy.inf, -numpy.inf, numpy.nan], dtype="float32")], {}
    for name in "ArgMax ArgMin".split():
        yield name, [numpy.round(x)], {"axis": 1}
        yield name, [x], {"axis": -1, "keepdims": 0}
    yield "Mod", [whole(7, -7, 7, -7), whole(3, 3, -3, -3)], {}
    yield "Mod", [5 * x, numbers(4)], {"fmod": 1}
    yield "Round", [numpy.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.4], dtype="float32")], {}
    yield "LeakyRelu", [x], {"alpha": 0.2}
    for way in ("none", "tanh"):
        yield "Gelu", [x], {"approximate": way}
    yield "Clip", [x, numpy.float32(-0.5), numpy.float32(0.25)], {}
    yield "Clip", [x, None, numpy.float32(0.25)], {}
    yield "Cast", [numpy.arange(200, 256, dtype="uint8")], {"to": TensorProto.FLOAT}
    yield "Cast", [3 * x], {"to": TensorProto.INT64}
    yield "Cast", [numpy.array([0, 0.3, -2], dtype="float32")], {"to": TensorProto.BOOL}
    yield "Not", [truth], {}
    others = [numbers(*shape) for shape in ((2, 3, 5, 4), (3, 1, 1), (4,), (1, 1, 5, 1), (2, 1, 1, 4), ())]
    for name in "Add Div Mul Sub Max Min".split():
        for other in others:
            yield name, [x, other], {}
    yield "Add", [numbers(3, 1), numbers(1, 4)], {}
    yield "Div", [whole(7, -7, 9), whole(2, 2, -4)], {}
    yield "Max", [numbers(3), numbers(3), numbers(1)], {}
    yield "Pow", [positive, numbers(3)], {}
    yield "PRelu", [x, numbers(3, 1, 1)], {}
    for name in "And Or Xor".split():
        yield name, [truth, numbers(4) > 0], {}
    for name in "Equal Greater GreaterOrEqual Less LessOrEqual".split():
        yield name, [numpy.round(x), numpy.round(numbers(4))], {}
    yield "Where", [truth, numbers(2, 3, 4), numpy.float32(1.5)], {}
    image, weight, bias = numbers(2, 6, 9, 8), numbers(7, 6, 3, 3), numbers(7)
    yield "Conv", [image, weight], {}
    yield "Conv", [image, weight, bias], {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    yield "Conv", [image, weight, bias], {"pads": [0, 2, 1, 0], "strides": [2, 3], "dilations": [2, 1]}
    yield "Conv", [image, numbers(8, 6, 1, 1), numbers(8)], {"strides": [2, 2]}
    yield "Conv", [image, numbers(6, 2, 2, 3), numbers(6)], {"group": 3, "pads": [1, 0, 0, 1]}
    yield "Conv", [image, numbers(12, 1, 5, 5)], {"group": 6, "pads": [2, 2, 2, 2]}
    for a, b in [((3, 4), (4, 5)), ((1, 40), (40, 7)), ((6, 9), (9, 4)), ((2, 3, 6, 5), (2, 3, 5, 7)),
                 ((2, 1, 6, 5), (3, 5, 2)), ((5,), (5, 3)), ((4, 5), (5,)), ((2, 6, 5), (5, 3)),
                 ((2, 2, 5), (2, 5, 3))]:
        yield "MatMul", [numbers(*a), numbers(*b)], {}
    yield "Gemm", [numbers(2, 6), numbers(6, 3), numbers(3)], {}
    yield "Gemm", [numbers(5, 6), numbers(3, 6), numbers(5, 3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}
    yield "Gemm", [numbers(6, 5), numbers(6, 3)], {"transA": 1}
    yield "MaxPool", [x], {"kernel_shape": [2, 2], "strides": [2, 2]}
    yield "MaxPool", [image], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1], "dilations": [2, 1]}
    for ceil in (0, 1):
        yield "MaxPool", [image], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": ceil}
        for include in (0, 1):
            yield "AveragePool", [image], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1],
                                           "ceil_mode": ceil, "count_include_pad": include}
    for name in "GlobalAveragePool GlobalMaxPool".split():
        yield name, [image], {}
    for name in "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ReduceL2".split():
        yield name, [x, whole(2, 3)], {"keepdims": 0}
        yield name, [x, whole(1)], {}
        yield name, [x, whole(0, -1)], {}
        yield name, [x], {}
    yield "ReduceSum", [x], {"noop_with_empty_axes": 1}
    for name in "Softmax LogSoftmax".split():
        yield name, [10 * x], {}
        yield name, [x], {"axis": 1}
    yield "BatchNormalization", [x, numbers(3), numbers(3), numbers(3), positive[0]], {"epsilon": 0.01}
    yield "InstanceNormalization", [x, numbers(3), numbers(3)], {"epsilon": 0.01}
    yield "LayerNormalization", [x, numbers(4), numbers(4)], {}
    yield "LayerNormalization", [x, numbers(5, 4)], {"axis": -2, "epsilon": 0.1}
    yield "Shape", [x], {}
    yield "Shape", [x], {"start": 1, "end": -1}
    yield "ConstantOfShape", [whole(2, 3)], {"value": helper.make_tensor("", TensorProto.FLOAT, [1], [1.5])}
    yield "Reshape", [x, whole(0, -1, 2)], {}
    yield "Flatten", [x], {}
    yield "Flatten", [x], {"axis": -1}
    yield "Squeeze", [numbers(1, 3, 1), whole(-1)], {}
    yield "Squeeze", [numbers(1, 3, 1)], {}
    yield "Unsqueeze", [numbers(3, 2), whole(0, -1)], {}
    yield "Transpose", [x], {"perm": [0, 2, 3, 1]}
    yield "Transpose", [x], {}
    yield "Expand", [numbers(3, 1), whole(2, 3, 4)], {}
    yield "Tile", [numbers(2, 3), whole(2, 2)], {}
    for axis in (1, -1):
        yield "Concat", [x, x + 1, x + 2], {"axis": axis}
    yield "Split", [x, whole(1, 4)], {"axis": 2}
    yield "Split", [x], {"axis": 2, "num_outputs": 2}
    yield "Slice", [x, whole(1, 0), whole(2**62, -1), whole(2, 3)], {}
    yield "Slice", [x, whole(-1, 0), whole(-(2**62), 4), whole(-2, 3), whole(-2, 2)], {}
    yield "Slice", [x, whole(0, 1), whole(1, 2)], {}
    yield "Gather", [x, whole(0, -1)], {"axis": 2}
    yield "Gather", [whole(4, 5, 6), numpy.array(-1, dtype="int64")], {}
    for mode in "constant edge reflect".split():
        yield "Pad", [x, whole(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": mode}
    yield "Pad", [x, whole(1, 0, 0, 2), numpy.float32(-1), whole(1, -1)], {}
    yield "Pad", [x, whole(0, -1, 0, -1), None, whole(2, 3)], {}


def by_onnxruntime(operation, inputs, attributes):
    names = ["" if value is None else f"i{index}" for index, value in enumerate(inputs)]
    outputs = [f"o{index}" for index in range(2 if operation == "Split" else 1)]
    node = helper.make_node(operation, names, outputs, **attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in zip(names, inputs) if name
    ]
    graph = helper.make_graph([node], "one", values, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    model = onnx.shape_inference.infer_shapes(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {name: value for name, value in zip(names, inputs) if name})


def for_page(value):
    if value is None:
        return None
    # Ends beyond any size are cut to what 32 bits hold, as the exporter does.
    kind, limit = KINDS[value.dtype.name], 2**31 - 1
    data = numpy.clip(value, -limit, limit) if value.dtype == "int64" else value
    return {"shape": list(value.shape), "kind": kind, "data": data.ravel().astype("float64").tolist()}


CALL = """([operation, inputs, attributes]) => {
    const kinds = { Float32Array, Int32Array, Uint8Array };
    const tensors = inputs.map((x) => x ? { shape: x.shape, data: kinds[x.kind].from(x.data) } : undefined);
    return [OPERATIONS[operation](tensors, attributes)].flat().map(({ shape, data }) =>
        ({ shape, kind: data.constructor.name, data: [...data].map(String) }));
}"""


def main():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        for name in ("tensors.js", "run.js"):
            page.add_script_tag(path=SOURCES / name)
        known, seen, worst = set(page.evaluate("Object.keys(OPERATIONS)")), {}, 0.0
        for operation, inputs, attributes in cases():
            inputs = [value if value is None else numpy.asarray(value) for value in inputs]
            wanted = by_onnxruntime(operation, inputs, attributes)
            number = lambda value: value.float_data[0] if isinstance(value, TensorProto) else value
            plain = {key: number(value) for key, value in attributes.items()}
            given = [for_page(value) for value in inputs]
            found = page.evaluate(CALL, [operation, given, plain])
            what = f"{operation} of {[value if value is None else value.shape for value in inputs]} with {attributes}"
            assert len(found) == len(wanted), what
            for mine, theirs in zip(found, wanted):
                assert mine["shape"] == list(theirs.shape), f"{what}: shape {mine['shape']}, not {theirs.shape}"
                assert mine["kind"] == KINDS[theirs.dtype.name], f"{what}: {mine['kind']}, not {theirs.dtype}"
                theirs = theirs.ravel().astype("float64")
                difference = abs(numpy.array(mine["data"], dtype="float64") - theirs) / numpy.maximum(1, abs(theirs))
                worst = max(worst, difference.max(initial=0))
                # Sums of up to 54 products in f32, in another order.
                assert difference.max(initial=0) < 1e-5, f"{what}: off by {difference.max()}"
            seen[operation] = seen.get(operation, 0) + 1
        browser.close()
    assert known == set(seen), f"no case for {sorted(known - set(seen))}"
    print(f"{len(known)} operations in {sum(seen.values())} cases as ONNX Runtime {onnxruntime.__version__} computes "
          f"them, to {worst:.1e} of the larger of 1 and the number")


if __name__ == "__main__":
    main()
