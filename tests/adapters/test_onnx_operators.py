"""How ONNX nodes read as operators: attributes and operands of every opset, negative axes, defaults."""

import numpy as np
import pytest

from bnfold import ops
from bnfold.adapters.onnx_file import read
from bnfold.relation import Site
from bnfold.rules import relation
from tests.adapters.onnx_cases import model

IMAGE = (2, 4, 8, 6)
HERE, BOTH = ((0, 0), (0, 0)), ((1, 3), (2, 4))


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


READS = [
    # Layout.
    pytest.param("Transpose(x)", {}, [ops.Transpose((3, 2, 1, 0))], 17, id="transpose, all axes reversed"),
    pytest.param("Tile(x, r)", {"r": integers(1, 2, 1, 3)}, [ops.Tile((1, 2, 1, 3))], 17, id="tile"),
    pytest.param(
        "Slice(x, s, e, a, t)",
        {"s": integers(0, 7), "e": integers(3, -9), "a": integers(1, -2), "t": integers(2, -3)},
        [ops.Take(1, (0, 2)), ops.Take(2, (7, 4, 1))],
        17,
        id="slice, backwards over the start",
    ),
    pytest.param(
        "Slice(x, s, e, a, t)",
        {"s": integers(-1), "e": integers(-8), "a": integers(2), "t": integers(-1)},
        [ops.Take(2, (7, 6, 5, 4, 3, 2, 1))],
        17,
        id="slice, backwards up to the first",
    ),
    pytest.param("Slice<starts=[0, 1], ends=[9, 3]>(x)", {}, [ops.Take(1, (1, 2))], 9, id="slice, attributes, no axes"),
    pytest.param(
        "Slice(x, s, e, a)",
        {"s": integers(0), "e": integers(99), "a": integers(3)},
        [ops.Identity()],
        17,
        id="slice of all",
    ),
    pytest.param("Gather<axis=-3>(x, i)", {"i": integers(-1, 0)}, [ops.Take(1, (3, 0))], 17, id="gather"),
    pytest.param("Gather<axis=1>(x, i)", {"i": np.array(-1)}, [ops.Select(1, 3)], 17, id="gather of one index"),
    pytest.param("Split<axis=-2, split=[5, 3]>(x)", {}, [ops.Split(2, (5, 3))], 11, id="split, sizes"),
    pytest.param("Split<axis=2, num_outputs=3>(x)", {}, [ops.Split(2, (3, 3, 2))], 18, id="split, the last shorter"),
    pytest.param("Concat<axis=-3>(x, x)", {}, [ops.Concat(1)], 17, id="concat"),
    pytest.param("DepthToSpace<blocksize=2>(x)", {}, [ops.DepthToSpace(2, "DCR")], 17, id="depth to space"),
    pytest.param('DepthToSpace<blocksize=2, mode="CRD">(x)', {}, [ops.DepthToSpace(2, "CRD")], 17, id="columns first"),
    # Pooling.
    *(
        pytest.param(f"AveragePool<kernel_shape=[2, 2]{more}>(x)", {}, [ops.AvgPool(counts)], 17, id=f"mean{more}")
        for more, counts in (
            ("", False),
            (", count_include_pad=1", False),
            (", pads=[0, 0, 1, 1]", False),
            (", count_include_pad=1, pads=[0, 0, 1, 1]", True),
            (', count_include_pad=1, auto_pad="SAME_UPPER"', True),
            (', count_include_pad=1, auto_pad="VALID"', False),
            (", count_include_pad=1, ceil_mode=1", True),
        )
    ),
    pytest.param("GlobalMaxPool(x)", {}, [ops.Reduce("max", (2, 3), True)], 17, id="global"),
    pytest.param("ReduceMean<axes=[-1, 1]>(x)", {}, [ops.Reduce("mean", (1, 3), True)], 17, id="mean over two axes"),
    pytest.param(
        "ReduceSum<keepdims=0>(x, a)", {"a": integers(-2)}, [ops.Reduce("sum", (2,), False)], 17, id="sum, an operand"
    ),
    pytest.param("ReduceMax(x)", {}, [ops.Reduce("max", (0, 1, 2, 3), True)], 17, id="over all axes"),
    pytest.param("ReduceSum<noop_with_empty_axes=1>(x)", {}, [ops.Identity()], 17, id="over none"),
    # Resampling and padding.
    pytest.param(
        "Resize(x, , s)", {"s": floats(1, 1, 2, 1)}, [ops.Resize(affine=True, moved=(2,))], 17, id="resize, one axis"
    ),
    pytest.param(
        "Resize<axes=[-1, 2]>(x, , s)", {"s": floats(2, 1)}, [ops.Resize(affine=True, moved=(3,))], 18, id="its axes"
    ),
    pytest.param(
        'Resize<keep_aspect_ratio_policy="not_larger", axes=[2, 3]>(x, , , s)',
        {"s": integers(8, 5)},
        [ops.Resize(affine=True, moved=(2, 3))],
        18,
        id="sizes that the aspect ratio may change",
    ),
    pytest.param("Resize(x, , , s)", {"s": integers(2, 4, 8, 5)}, [ops.Resize(affine=True)], 17, id="resize to sizes"),
    pytest.param(
        'Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, , s)',
        {"r": floats(0, 0, 0, 0, 1, 1, 1, 1), "s": integers(2, 4, 8, 5)},
        [ops.Resize(affine=False)],
        17,
        id="resize beyond the edge",
    ),
    pytest.param("Pad(x, p)", {"p": integers(0, 0, 1, 2, 0, 0, 3, 4)}, [ops.Pad((*HERE, *BOTH))], 17, id="pad"),
    pytest.param(
        'Pad<mode="edge">(x, p, , a)',
        {"p": integers(2, 1, 4, 3), "a": integers(-1, 2)},
        [ops.Pad((*HERE, *BOTH), "replicate")],
        18,
        id="pad, two axes",
    ),
    pytest.param(
        "Pad<pads=[0, 0, 1, 2, 0, 0, 3, 4], value=0.5>(x)", {}, [ops.Pad((*HERE, *BOTH), "constant", 0.5)], 10, id="old"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("node", "constants", "wanted", "opset"), READS)
def test_a_node_reads_as(node, constants, wanted, opset):
    outputs = ["y", "y1", "y2"][: max((len(op.sizes) for op in wanted if isinstance(op, ops.Split)), default=1)]
    shape = ",".join(map(str, IMAGE))
    declared = ", ".join(f"float[a{i},b{i},c{i},d{i}] {name}" for i, name in enumerate(outputs))
    proto = model(f"(float[{shape}] x) => ({declared}) {{ {', '.join(outputs)} = {node} }}", opset, **constants)
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    assert [item.op for item in read(proto).nodes] == wanted


def test_scales_that_a_caller_may_override_may_move_every_axis():
    text = "(float[2,4,8,6] x, float[4] s) => (float[2,4,h,w] y) { y = Resize(x, , s) }"
    proto = model(text, s=floats(1, 1, 2, 1))
    assert read(proto).nodes[-1].op == ops.Resize(affine=True, moved=(2, 3))
    assert read(proto, freeze_inputs=True).nodes[-1].op == ops.Resize(affine=True, moved=(2,))


@pytest.mark.parametrize("step", [-1, 2])
@pytest.mark.parametrize("named", [True, False])
def test_a_crop_of_an_axis_of_unknown_length_keeps_no_place_along_what_it_crops(step, named):
    """The channels in reverse are as many: taken for channels in their places, they would be scaled as others."""
    text = "(float[2,4,n,6] x) => (float[2,c,m,6] y) { y = Slice(x, s, e, a, t) }"
    start, end = (-1, -(2**62)) if step < 0 else (0, 2**62)
    operands = {"s": integers(start, 1), "e": integers(end, 2**62), "a": integers(1, -2), "t": integers(step, 1)}
    proto = model(text, **operands)
    if not named:
        proto.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param")
    crop = read(proto).nodes[-1]
    assert crop.op == ops.Resize(affine=True, moved=(1, 2))
    (tie,) = relation(Site(crop, read(proto)))
    assert [axis for axis in range(4) if tie.view.image(axis, 4) is not None] == [0, 3]
