"""The audit of merged branches: a right merge passes in every dtype, and each fault that is planted is found."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bnfold import ops
from bnfold.adapters.memory import written
from bnfold.affine import Affine
from bnfold.auditing import audit
from bnfold.auditing.merges import UnlikeError
from bnfold.auditing.merges import merged as merged_by_definition
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Merge, Plan
from tests.auditors import failed
from tests.building import Builder
from tests.test_merging import P0, P1, conv, depthwise, dilated, grouped, repvgg, strided

SCALE, SHIFT = np.array([2.0, -3.0, 0.5, 1.5]), np.array([1.0, -2.0, 0.25, 3.0])
NETWORKS = [repvgg, grouped, depthwise, strided, dilated]


def merged(build: Callable[[Builder, str], str], dtype: str) -> tuple[Graph, Plan, Graph]:
    """A network whose branches read what an affine gives, and are read by another one."""
    b = Builder(dtype=dtype)
    x = b.batch_norm("before", b.conv("first", b.input(2, 3, 9, 7), 4))
    y = build(b, b.relu("relu", x))
    graph = b.graph(b.conv("last", b.batch_norm("behind", b.relu("bend", y), b.positive(y)), 2, pad=0))
    plan = fold(graph, merge=True)
    assert len(plan.merges) == 1
    return graph, plan, written(graph, plan)


def parts(graph: Graph, plan: Plan, result: Graph) -> list[tuple[str, str]]:
    return [(row.node, row.part) for row in failed(graph, plan, result)]


def changed(graph: Graph, node: str, operand: int, change: Callable[[np.ndarray], None]) -> Graph:
    constant = graph.constants[graph.by_name[node].inputs[operand]]
    numbers = constant.load().copy()
    change(numbers)
    constants = {**graph.constants, constant.name: replace(constant, load=lambda: numbers)}
    return replace(graph, constants=constants)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
def test_a_right_merge_passes(build: Callable[[Builder, str], str], dtype: str) -> None:
    assert parts(*merged(build, dtype)) == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_any_number_that_is_wrong_is_found(part: str, build: Callable[[Builder, str], str], dtype: str) -> None:
    graph, plan, result = merged(build, dtype)
    (merge,) = plan.merges
    operand = 1 if part == "weight" else 2
    size = result.constants[result.by_name[merge.node].inputs[operand]].load()
    by = {"float64": 1e-12, "float32": 1e-5, "float16": 0.02}[dtype]
    for place in (0, size.size // 2, size.size - 1):

        def change(numbers: np.ndarray, place: int = place) -> None:
            numbers.reshape(-1)[place] += by * max(1.0, float(np.abs(numbers).max()))

        assert parts(graph, plan, changed(result, merge.node, operand, change)) == [(merge.node, part)]


def test_channels_that_are_swapped_are_found() -> None:
    graph, plan, result = merged(repvgg, "float32")
    (merge,) = plan.merges

    def swap(numbers: np.ndarray) -> None:
        numbers[:, [0, 1]] = numbers[:, [1, 0]]

    assert parts(graph, plan, changed(result, merge.node, 1, swap)) == [(merge.node, "weight")]


@pytest.mark.parametrize(
    "fault",
    [
        {"pads": ((0, 2), (1, 1))},
        {"dilations": (2, 2)},
        {"strides": (2, 2)},
        {"groups": 2},
        {"pad_mode": "reflect"},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_a_merge_with_another_operator_is_found(fault: dict[str, object]) -> None:
    graph, plan, result = merged(repvgg, "float32")
    edits = (replace(e, op=replace(e.op, **fault)) if isinstance(e, Merge) else e for e in plan.edits)
    assert parts(graph, replace(plan, edits=tuple(edits)), result)


def test_branches_of_two_tensors_are_found() -> None:
    b = Builder()
    x, other = b.input(2, 4, 5, 5), b.input(2, 4, 5, 5, name="other")
    graph = b.graph(b.add("sum", conv(b, "a", x, 4, (3, 3), P1), conv(b, "b", other, 4, (3, 3), P1)))
    op = ops.Conv((1, 1), (1, 1), P1)
    plan = Plan((), (Merge("sum", x, op, (("a",), ("b",))),))
    weight = graph.constants["a.weight"].load() + graph.constants["b.weight"].load()
    rows = audit(graph, plan, lambda node, operand: weight if operand == 1 else np.zeros(4))
    assert [row.passed for row in rows] == [False]


def test_zero_padding_behind_a_shift_is_found() -> None:
    b = Builder()
    x = b.input(2, 4, 5, 5)
    shifted = b.batch_norm("bn", x)
    graph = b.graph(b.add("sum", conv(b, "a", shifted, 4, (3, 3), P1), conv(b, "b", x, 4, (1, 1), P0)))
    plan = Plan((), (Merge("sum", x, ops.Conv((1, 1), (1, 1), P1), (("bn", "a"), ("b",))),))
    rows = audit(graph, plan, lambda node, operand: np.zeros((4, 4, 3, 3)) if operand == 1 else np.zeros(4))
    assert [row.passed for row in rows] == [False]


def test_the_definition_with_groups_coefficients_and_frames() -> None:
    """y = 2 a(s x + t) - 0.5 b(x) in two groups, x = p x' + q, y = u y' + v; one channel of y' says nothing of y."""
    b = Builder()
    x = b.input(2, 4, 5, 5)
    scaled = b.node("affine", ops.Affine(1), [x, b.constant("s", SCALE), b.constant("t", SHIFT)], (2, 4, 5, 5))
    branches = [conv(b, "a", scaled, 6, (1, 1), P0, True, groups=2), conv(b, "b", x, 6, (1, 1), P0, groups=2)]
    graph = b.graph(b.node("sum", ops.Sum((2.0, -0.5)), branches, (2, 6, 5, 5)))
    read = Affine(1, np.array([3.0, -0.5, 2.0, 0.25]), np.array([1.0, 2.0, -1.0, 0.5]))
    given = Affine(1, np.array([2.0, -1.0, 0.0, 0.5, 3.0, -4.0]), np.linspace(-2, 3, 6))
    merge = Merge("sum", x, ops.Conv((1, 1), (1, 1), P0, 2), (("affine", "a"), ("b",)))
    plan = Plan((), (merge,), {x: (read,), "sum.y": (given,)})

    first, second = (np.zeros((6, 4)) for _ in "ab")
    for name, matrix in (("a", first), ("b", second)):
        numbers = graph.constants[f"{name}.weight"].load()[:, :, 0, 0]
        matrix[:3, :2], matrix[3:, 2:] = numbers[:3], numbers[3:]
    dense = 2 * first * SCALE - 0.5 * second
    bias = dense @ read.shift + 2 * (first @ SHIFT + graph.constants["a.bias"].load())
    seen = given.scale != 0
    rows = np.where(seen, given.scale, 1.0)
    dense = np.where(seen[:, None], dense * read.scale / rows[:, None], 0)
    weight = np.concatenate([dense[:3, :2], dense[3:, 2:]])[..., None, None]

    found = merged_by_definition(graph, plan, merge, weight.shape)
    np.testing.assert_allclose(found[0], weight, rtol=1e-13)
    np.testing.assert_allclose(found[2][seen], ((bias - given.shift) / rows)[seen], rtol=1e-12)


def test_frames_along_the_batch_pass_branches_without_a_bias() -> None:
    """y = (A + B) x, x = p x' along axis 0, y = p y'; with a shift along axis 1 within that, the bias is -v / u."""
    b = Builder()
    x = b.input(2, 4, 5, 5)
    graph = b.graph(b.add("sum", *(conv(b, name, x, 4, (1, 1), P0) for name in "ab")))
    merge = Merge("sum", x, ops.Conv((1, 1), (1, 1), P0), (("a",), ("b",)))
    passing = Affine(0, np.array([2.0, -3.0]), np.zeros(2))
    given = Affine(1, np.array([2.0, -1.0, 0.5, 3.0]), np.array([1.0, 2.0, -1.0, 0.5]))
    weight = sum(graph.constants[f"{name}.weight"].load() for name in "ab") / given.scale.reshape(-1, 1, 1, 1)

    def passes(frames: dict[str, tuple[Affine, ...]]) -> list[bool]:
        def now(node: str, operand: int) -> np.ndarray:
            return weight if operand == 1 else -given.shift / given.scale

        return [row.passed for row in audit(graph, Plan((), (merge,), frames), now)]

    assert passes({x: (passing,), "sum.y": (passing, given)}) == [True, True]
    assert not all(passes({x: (passing,), "sum.y": (given, passing)}))
    assert not all(passes({x: (passing,), "sum.y": (given,)}))
    assert not all(passes({"sum.y": (passing, given)}))
    assert not all(passes({x: (replace(passing, axis=3),), "sum.y": (given,)}))


def test_taps_that_the_kernel_leaves_out_are_found() -> None:
    b = Builder()
    x = b.input(2, 4, 5, 5)
    graph = b.graph(b.add("sum", conv(b, "a", x, 4, (3, 3), P1), conv(b, "b", x, 4, (1, 1), P0)))
    merge = Merge("sum", x, ops.Conv((1, 1), (1, 1), P0), (("a",), ("b",)))
    with pytest.raises(UnlikeError, match=r"sum: the kernel leaves out the offsets \[\(-1, -1\), .*\(1, 1\)\]"):
        merged_by_definition(graph, Plan((), (merge,)), merge, (4, 4, 1, 1))


def test_branches_of_different_strides_are_found() -> None:
    b = Builder()
    x = b.input(2, 4, 1, 1)
    graph = b.graph(b.add("sum", conv(b, "a", x, 4, (1, 1), P0), conv(b, "b", x, 4, (1, 1), P0, strides=(2, 2))))
    merge = Merge("sum", x, ops.Conv((1, 1), (1, 1), P0), (("a",), ("b",)))
    with pytest.raises(UnlikeError, match="sum: branches with different strides"):
        merged_by_definition(graph, Plan((), (merge,)), merge, (4, 4, 1, 1))
