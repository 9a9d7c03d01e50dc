"""The audit passes right folds in every dtype, and finds every fault that is planted in what was written."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from bnfold import ops
from bnfold.adapters.memory import written as applied
from bnfold.affine import Floats
from bnfold.auditing import AuditRow, audit, ulp
from bnfold.folding import fold
from bnfold.graph import SLAB, Constant, Graph
from bnfold.plan import Plan, Remove
from tests.auditors import reader
from tests.building import Builder
from tests.networks import network

ZEROS = np.array([1.5, 0.0, -0.5, 2.0, 0.3, -1.0])


def stored(graph: Graph, dtype: str) -> Graph:
    """Round every constant into a dtype."""

    def rounded(constant: Constant) -> Constant:
        array = constant.load().astype(dtype).astype(np.float64)
        return Constant(constant.name, constant.shape, dtype, lambda: array)

    values = {name: replace(value, dtype=dtype) for name, value in graph.values.items()}
    return replace(graph, values=values, constants={n: rounded(c) for n, c in graph.constants.items()})


def run(graph: Graph) -> tuple[Plan, tuple[AuditRow, ...]]:
    plan = fold(graph, skip=("kept",))
    return plan, audit(graph, plan, reader(applied(graph, plan)))


def two_convs(b: Builder) -> str:
    x = b.batch_norm("bn", b.conv("conv", b.input(2, 3, 8, 8), 6, groups=3))
    return b.conv("next", b.relu("relu", x), 4)


def unpadded(b: Builder) -> str:
    x = b.batch_norm("bn", b.relu("first", b.conv("conv", b.input(2, 3, 8, 8), 6)), b.positive("conv.y"))
    return b.conv("next", x, 4, pad=0, groups=2)


def dead_channels(b: Builder) -> str:
    return b.relu("relu", b.batch_norm("bn", b.conv("conv", b.input(2, 3, 8, 8), 6, bias=False), ZEROS))


def dead_behind_another(b: Builder, name: str = "first") -> str:
    x = b.relu("relu", b.batch_norm(name, b.conv("conv", b.input(2, 3, 8, 8), 6), np.linspace(0.5, 1.5, 6)))
    return b.conv("next", b.batch_norm("bn", x, ZEROS), 4, pad=0)


def dead_behind_one_that_stays(b: Builder) -> str:
    return dead_behind_another(b, "kept")


def trunk(b: Builder) -> str:
    x = b.conv("stem", b.input(2, 3, 8, 8), 6)
    for k in range(2):
        y = b.relu(f"relu{k}", b.batch_norm(f"bn{k}", x, b.positive(x)))
        x = b.add(f"add{k}", x, b.conv(f"conv{k}", y, 6, bias=False))
    return b.relu("last", b.batch_norm("bn", x, b.positive(x)))


def kept_behind(b: Builder) -> str:
    x = b.batch_norm("bn2", b.batch_norm("kept", b.input(2, 6, 8, 8)))
    return b.relu("relu", x)


def products(b: Builder) -> str:
    x = b.input(2, 5)
    weight, bias = b.constant("w", b.rng.normal(size=(5, 6))), b.constant("b", b.rng.normal(size=6))
    y = b.node("gemm", ops.Gemm(0.5, 3.0), [x, weight, bias], (2, 6))
    y = b.batch_norm("bn1", y)
    weight = b.constant("m", b.rng.normal(size=(6, 7)))
    y = b.node("matmul", ops.MatMul(), [y, weight, b.constant("c", b.rng.normal(size=7))], (2, 7))
    return b.linear("fc", b.batch_norm("bn2", y), 3)


def transposed(b: Builder) -> str:
    weight = b.constant("w", b.rng.normal(size=(4, 3, 2, 2)))
    op = ops.ConvTranspose((2, 2), (1, 1), ((0, 0), (0, 0)), (0, 0), 2)
    return b.batch_norm("bn", b.node("up", op, [b.input(2, 4, 3, 3), weight], (2, 6, 6, 6)))


def einsum(b: Builder) -> str:
    op = ops.Einsum("oc,nchw->nohw")
    y = b.node("einsum", op, [b.constant("w", b.rng.normal(size=(6, 4))), b.input(2, 4, 3, 3)], (2, 6, 3, 3))
    return b.conv("next", b.batch_norm("bn", b.relu("relu", y)), 3, pad=0)


def embedded(b: Builder) -> str:
    """Tokens of a table, with their positions added."""
    table = b.node("tokens", ops.Parameter(), [b.constant("table", b.rng.normal(size=(9, 6)))], (9, 6))
    x = b.node("lookup", ops.Lookup(), [table, b.constant("ids", np.array([[4.0, 0, 8], [1, 1, 3]]))], (2, 3, 6))
    places = b.node("places", ops.Parameter(), [b.constant("where", b.rng.normal(size=(3, 6)))], (3, 6))
    x = b.node("add", ops.Sum((1.0, 1.0)), [x, places], (2, 3, 6))
    b.input(2, 3, 6)  # which nothing reads
    return b.relu("relu", b.batch_norm("bn", b.node("turn", ops.Transpose((0, 2, 1)), [x], (2, 6, 3))))


def recurrent(b: Builder) -> str:
    """A GRU that runs both ways, without biases."""
    weights = [b.constant(name, b.rng.normal(size=(2, 9, size))) for name, size in (("w", 5), ("r", 3))]
    x = b.batch_norm("bn", b.input(2, 5, 4))
    x = b.node("steps", ops.Transpose((2, 0, 1)), [x], (4, 2, 5))
    return b.node("gru", ops.Recurrent("GRU", ((1, 3),)), [x, *weights], (4, 2, 2, 3))


def bilinear(b: Builder) -> str:
    x, y = b.linear("first", b.input(2, 5), 4), b.linear("second", b.input(2, 3, name="z"), 6)
    scale, zero = b.constant("scale", b.rng.normal(size=4)), b.constant("zero", np.zeros(4))
    x = b.node("scaled", ops.Affine(1), [b.relu("relu", x), scale, zero], (2, 4))
    weights = [b.constant("w", b.rng.normal(size=(3, 4, 6))), b.constant("c", b.rng.normal(size=3))]
    return b.relu("last", b.batch_norm("bn", b.node("pair", ops.Bilinear(), [x, *weights, y], (2, 3))))


NETWORKS = [
    two_convs,
    unpadded,
    dead_channels,
    dead_behind_another,
    dead_behind_one_that_stays,
    trunk,
    kept_behind,
    products,
    transposed,
    embedded,
    recurrent,
    bilinear,
]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_a_right_fold_passes(network: Callable[[Builder], str], dtype: str) -> None:
    b = Builder()
    plan, rows = run(stored(b.graph(network(b)), dtype))
    assert plan.folded
    assert {edit.node for edit in plan.edits} <= {row.node for row in rows}
    assert [str(row) for row in rows if not row.passed] == []
    if dtype == "float32":
        assert max(row.ulp for row in rows) <= 0.5


def test_an_einsum_is_audited() -> None:
    b = Builder(dtype="float32")
    graph = b.graph(einsum(b))
    plan, rows = run(graph)
    assert all(row.passed for row in rows), rows
    scaled = {row.node for row in rows if row.part == "weight"}
    assert scaled == {edit.node for edit in plan.edits if not isinstance(edit, Remove)}


@pytest.mark.parametrize("level", ["default", "max"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_no_right_fold_of_a_random_network_is_flagged(level: str, dtype: str) -> None:
    for seed in (*range(30), 399, 839):
        graph = stored(network(seed), dtype)
        plan = fold(graph, level=level)
        wrong = [str(row) for row in audit(graph, plan, reader(applied(graph, plan))) if not row.passed]
        assert not wrong, (seed, wrong)


FAULTS: dict[str, Callable[[Floats], Floats]] = {
    "a channel's scale": lambda x: x * np.where(np.arange(len(x)) == 1, 1.001, 1).reshape(-1, *[1] * (x.ndim - 1)),
    "two channels swapped": lambda x: np.concatenate([x[1::-1], x[2:]]),
    "two ULP": lambda x: x * (1 + 2**-21),
    "a sign": lambda x: -x,
    "a NaN": lambda x: np.where(np.arange(x.size).reshape(x.shape) == x.size - 1, np.nan, x),
    "zeros": np.zeros_like,
    "another size": lambda x: x[:-1],
}


@pytest.mark.parametrize("held", [np.float32, np.float64])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("network", "node", "operand"),
    [
        (two_convs, "conv", 1),
        (two_convs, "conv", 2),
        (unpadded, "next", 1),
        (unpadded, "next", 2),
        (products, "gemm", 1),
        (products, "matmul", 2),
        (kept_behind, "kept", 2),
        (transposed, "up", 1),
        (transposed, "up", 2),
        (recurrent, "gru", 1),
        (recurrent, "gru", 3),
        (bilinear, "pair", 1),
        (bilinear, "pair", 2),
    ],
)
def test_a_planted_fault_is_found(
    network: Callable[[Builder], str], node: str, operand: int, fault: str, held: type
) -> None:
    b = Builder()
    graph = stored(b.graph(network(b)), "float32")
    plan = fold(graph, skip=("kept",))
    right = reader(applied(graph, plan))

    def wrong(name: str, index: int) -> Floats | None:
        array = right(name, index)
        if array is None:
            return None
        return (FAULTS[fault](array) if (name, index) == (node, operand) else array).astype(held)

    assert {row.node for row in audit(graph, plan, wrong) if not row.passed} == {node}


def large(b: Builder) -> str:
    return b.batch_norm("bn", b.conv("conv", b.input(1, 70, 3, 3), 300, pad=0))


def large_transposed(b: Builder) -> str:
    weight = b.constant("w", b.rng.normal(size=(300, 70, 3, 3)))
    op = ops.ConvTranspose((1, 1), (1, 1), ((0, 0), (0, 0)), (0, 0), 2)
    x = b.batch_norm("bn1", b.relu("relu", b.input(1, 300, 3, 3)))
    return b.batch_norm("bn2", b.node("conv", op, [x, weight], (1, 140, 5, 5)))


def in_rows(graph: Graph) -> Graph:
    """Give constants that are read by rows."""

    def by_rows(constant: Constant) -> Constant:
        array = constant.load()
        return replace(constant, rows=lambda start, stop: array[start:stop]) if constant.shape else constant

    return replace(graph, constants={name: by_rows(constant) for name, constant in graph.constants.items()})


@pytest.mark.parametrize("read", [in_rows, lambda graph: graph], ids=["by rows", "whole"])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (155, 20, 1, 2), (299, 69, 2, 2)], ids=["first", "inside", "last"])
@pytest.mark.parametrize("network", [large, large_transposed], ids=lambda network: network.__name__)
def test_a_fault_anywhere_in_a_weight_of_several_stretches_is_found(
    network: Callable[[Builder], str], place: tuple[int, ...], read: Callable[[Graph], Graph]
) -> None:
    b = Builder()
    graph = read(stored(b.graph(network(b)), "float32"))
    assert graph.constants[graph.by_name["conv"].inputs[1]].load().size > SLAB
    plan = fold(graph)
    right = reader(applied(graph, plan))
    weight, *rest = (row for row in audit(graph, plan, right) if row.node == "conv")
    assert (weight.ulp, weight.elements) == (0.5, 300 * 70 * 9)
    assert all(row.passed for row in rest)

    def wrong(name: str, index: int) -> Floats | None:
        array = right(name, index)
        if array is None or (name, index) != ("conv", 1):
            return array
        array = array.astype(np.float32)
        array[place] = np.nextafter(np.nextafter(array[place], np.float32(9)), np.float32(9))
        return array

    (found,) = (row for row in audit(graph, plan, wrong) if not row.passed)
    assert (found.node, found.part, found.index) == ("conv", "weight", place)
    assert 1 < found.ulp <= 2.5


def test_a_number_that_overflows_is_found() -> None:
    b = Builder()
    graph = stored(b.graph(b.batch_norm("bn", b.conv("conv", b.input(1, 3, 3, 3), 4))), "float16")
    plan = fold(graph)
    (frame,) = plan.frames["conv.y"]
    frames = {"conv.y": (replace(frame, scale=frame.scale * 1e-9),)}
    rows = audit(graph, replace(plan, frames=frames), lambda *_: np.full((4, 3, 3, 3), np.inf))
    assert ("conv", "weight", np.inf) in [(row.node, row.part, row.ulp) for row in rows]


def test_a_bias_that_was_dropped_is_found() -> None:
    b = Builder()
    graph = stored(b.graph(dead_channels(b)), "float32")
    plan = fold(graph, skip=("kept",))
    right = reader(applied(graph, plan))
    rows = audit(graph, plan, lambda node, index: None if index == 2 else right(node, index))
    assert [(row.node, row.part) for row in rows if not row.passed] == [("conv", "bias")]


def test_a_row_that_was_zeroed_without_need_is_found() -> None:
    b = Builder()
    graph = stored(b.graph(dead_channels(b)), "float32")
    plan = fold(graph, skip=("kept",))
    right = reader(applied(graph, plan))

    def wrong(node: str, index: int) -> Floats | None:
        array = right(node, index)
        return array if array is None or index != 1 else np.where(np.arange(6).reshape(6, 1, 1, 1) == 0, 0.0, array)

    assert not all(row.passed for row in audit(graph, plan, wrong))
    frame = replace(plan.frames["conv.y"][0], scale=np.zeros(6))
    keen = replace(plan, frames={**plan.frames, "conv.y": (frame,)})
    assert not all(row.passed for row in audit(graph, keen, right))


@pytest.mark.parametrize("network", [dead_behind_another, dead_behind_one_that_stays])
def test_a_constant_that_comes_out_wrong_behind_dead_channels_is_found(network: Callable[[Builder], str]) -> None:
    b = Builder()
    graph = stored(b.graph(network(b)), "float32")
    plan = fold(graph, skip=("kept",))
    right = reader(applied(graph, plan))

    def wrong(node: str, index: int) -> NDArray[np.floating] | None:
        array = right(node, index)
        if array is None or node != "conv" or index != 2:
            return array
        return array + 30.0 * (ZEROS == 0)  # above the kink

    assert [(row.node, row.part) for row in audit(graph, plan, wrong) if not row.passed] == [("conv", "bias")]


@pytest.mark.parametrize("field", ["scale", "shift"])
def test_frames_that_do_not_make_the_affine_the_identity_are_found(field: str) -> None:
    b = Builder()
    graph = stored(b.graph(two_convs(b)), "float32")
    plan = fold(graph, skip=("kept",))
    wrong = {name: replace(frame, **{field: getattr(frame, field) * 1.0001}) for name, (frame,) in plan.frames.items()}
    frames = {name: (frame,) for name, frame in wrong.items()}
    rows = audit(graph, replace(plan, frames=frames), reader(applied(graph, plan)))
    assert ("bn", "identity") in [(row.node, row.part) for row in rows if not row.passed]


def test_ulp_is_the_spacing_of_the_numbers() -> None:
    sizes = np.array([1.0, 1.5, 3.0, 1e-40, 0.0, 65504.0])
    np.testing.assert_array_equal(ulp(sizes, "float32"), np.spacing(sizes.astype(np.float32)).astype(np.float64))
    half = np.array([1.0, 6e-8, 30000.0])
    np.testing.assert_array_equal(ulp(half, "float16"), np.spacing(half.astype(np.float16)).astype(np.float64))
    np.testing.assert_array_equal(ulp(np.array([1.0, 0.75]), "bfloat16"), [2**-7, 2**-8])


def test_a_concat_between_a_layer_and_the_affine_is_nothing_special() -> None:
    b = Builder()
    x = b.input(2, 3, 8, 8)
    joined = b.concat("concat", b.conv("one", x, 4), b.conv("two", x, 2))
    plan, rows = run(stored(b.graph(b.relu("relu", b.batch_norm("bn", joined))), "float32"))
    assert plan.folded
    assert all(row.passed for row in rows)


def test_a_beta_that_cancels_the_mean_leaves_its_rounding() -> None:
    b = Builder()
    graph = b.graph(b.relu("relu", b.batch_norm("bn", b.conv("conv", b.input(2, 3, 8, 8), 6))))
    gamma, mean, variance = (graph.constants[f"bn.{part}"].load() for part in ("weight", "running_mean", "running_var"))
    beta = gamma * mean / np.sqrt(variance + 1e-5) * (1 + 1e-9)
    graph = replace(graph, constants={**graph.constants, "bn.bias": Constant("bn.bias", (6,), "float64", lambda: beta)})
    _, rows = run(graph)
    assert all(row.passed for row in rows), rows
