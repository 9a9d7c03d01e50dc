"""The fold's reports: the numbers are counted by hand, all forms tell the same, names can't break them."""

import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from bnfold import ops
from bnfold.folding import fold
from bnfold.graph import Graph
from bnfold.plan import Folded, Kept, Plan, Reason, ReplaceByClip
from bnfold.report.fold_json import fold_json
from bnfold.report.fold_layers import around_kept, drawing
from bnfold.report.fold_picture import picture
from bnfold.report.fold_text import plain, show
from bnfold.report.fold_totals import Totals, totals
from bnfold.why import Why
from tests.building import Builder

SVG = "{http://www.w3.org/2000/svg}"


def network() -> Graph:
    b = Builder()
    x = b.batch_norm("bn1", b.conv("conv1", b.input(2, 3, 8, 8), 6, bias=False))
    x = b.batch_norm("bn2", b.relu("relu", x))
    return b.graph(b.conv("conv2", x, 4, groups=2))


def test_totals() -> None:
    graph = network()
    before, after = totals(graph, fold(graph))
    conv1, conv2 = 6 * 3 * 9, 4 * 3 * 9
    assert before == Totals(2, 0, 5, conv1 + conv2 + 4 + 2 * 24, 64 * (conv1 + conv2 + 2 * 6))
    assert after == Totals(1, 0, 4, conv1 + 6 + conv2 + 4 + 24, 64 * (conv1 + conv2 + 6))


@pytest.mark.parametrize(
    ("op", "x", "weight", "y", "cost"),
    [
        (ops.Linear(), (2, 7, 5), (3, 5), (2, 7, 3), 7 * 3 * 5),
        (ops.Gemm(trans_b=True), (2, 5), (3, 5), (2, 3), 15),
        (ops.Gemm(), (2, 5), (5, 3), (2, 3), 15),
        (ops.MatMul(), (2, 7, 5), (5, 3), (2, 7, 3), 7 * 3 * 5),
        (ops.ConvTranspose((2,), (1,), ((0, 0),), (0,), 2), (2, 4, 5), (4, 3, 2), (2, 6, 10), 5 * 4 * 3 * 2),
        (ops.Relu(), (2, 5), None, (2, 5), 0),
    ],
)
def test_multiply_adds(
    op: ops.Op, x: tuple[int, ...], weight: tuple[int, ...] | None, y: tuple[int, ...], cost: int
) -> None:
    b = Builder()
    operands = [b.input(*x)] + ([b.constant("w", np.ones(weight))] if weight else [])
    graph = b.graph(b.node("node", op, operands, y))
    assert totals(graph, Plan((), ()))[0].multiply_adds == cost


def test_a_size_that_is_not_known_is_said_to_be_unknown() -> None:
    graph = network()
    values = {name: replace(value, shape=("N", 6, "H", "W")) for name, value in graph.values.items()}
    assert totals(replace(graph, values=values), fold(graph))[0].multiply_adds is None
    assert "unknown" in plain(replace(graph, values=values), fold(graph))


def test_text() -> None:
    graph = network()
    assert (
        plain(graph, fold(graph))
        == """\
bn1  BatchNorm  folded  into conv1
bn2  BatchNorm  stays   relu bends at zero, so a shift can't pass [kink]
                        conv2 pads with zeros, which a shift would change [padding]

what to do (bnfold explain CODE says more)
kink     Use --level max if the target has no BatchNorm kernel.
padding  Fold the BatchNorm backward, or pad by reflection.

                               before          after
BatchNorms                          2              1
operators                           5              4
parameters                        322            304
multiply-adds                  18,048         17,664"""
    )


def test_a_clip_is_the_max_and_the_min_that_are_written() -> None:
    graph = network()
    for lo, hi, count in (([-1, 2], [np.inf, np.inf], 5), ([-np.inf, 2], [1, np.inf], 6)):
        plan = Plan((), (ReplaceByClip("relu", 1, np.array(lo), np.array(hi)),))
        assert [total.operators for total in totals(graph, plan)] == [5, count]


def test_merged_branches_are_told_and_counted() -> None:
    b = Builder()
    x = b.input(2, 4, 8, 8)
    small = b.conv("small", x, 4, kernel=1, pad=0)
    graph = b.graph(b.batch_norm("bn", b.add("sum", b.conv("large", x, 4), small, x)))
    plan = fold(graph, merge=True)
    assert "sum: one convolution in the place of large, small, sum, bn" in plain(graph, plan)
    assert fold_json(graph, plan, model="m")["merged"] == [{"into": "sum", "nodes": ["large", "small", "sum", "bn"]}]
    before, after = totals(graph, plan)
    assert after == Totals(0, 0, 1, 4 * 4 * 9 + 4, 64 * 4 * 4 * 9)
    assert before.multiply_adds == 64 * 4 * (4 * 9 + 4 + 1)


def test_long_lists_are_cut_and_nothing_is_said_plainly() -> None:
    graph = network()
    outcomes = (
        Folded("bn1", tuple(f"conv{k}" for k in range(9))),
        Kept("bn2", tuple(Reason(f"node{k}", Why.KINK) for k in range(9))),
    )
    text = plain(graph, Plan(outcomes, ()))
    assert "into conv0, conv1, conv2, conv3 and 5 more\n" in text
    assert "and 5 more (--json has all)" in text
    assert text.count("Use --level max") == 1
    assert plain(graph, Plan((), ())).startswith("no BatchNorm and no other per-channel affine found\n")


def test_the_table_in_colour_says_the_same() -> None:
    from rich.console import Console

    graph, stream = network(), io.StringIO()
    show(graph, fold(graph), Console(file=stream, width=120, color_system=None))
    words = " ".join(stream.getvalue().split())
    for line in plain(graph, fold(graph)).split("\n"):
        assert " ".join(line.split()) in words


def test_a_narrow_terminal_shows_whole_names() -> None:
    from rich.console import Console

    b, name, stream = Builder(), "/features/features.0/features.0.1/BatchNormalization", io.StringIO()
    graph = b.graph(b.batch_norm(name, b.conv("/features/features.0/Conv", b.input(2, 3, 8, 8), 6)))
    show(graph, fold(graph), Console(file=stream, width=60, color_system=None))
    first = "".join(line.split(" ")[0] for line in stream.getvalue().split("\n")[1:5])
    assert name in first


def test_json_has_everything() -> None:
    graph = network()
    data = json.loads(json.dumps(fold_json(graph, fold(graph), model="m.onnx", notes=("a note",), level="default")))
    assert (data["format"], data["version"], data["model"], data["level"]) == ("bnfold.fold", 1, "m.onnx", "default")
    assert data["notes"] == ["a note"]
    first, second = data["outcomes"]
    assert first == {
        "affine": "bn1",
        "outcome": "folded",
        "into": ["conv1"],
        "kind": "BatchNorm",
        "sources": ["bn1"],
        "axis": 1,
        "channels": 6,
    }
    assert [row["code"] for row in second["why"]] == ["kink", "padding"]
    assert data["totals"]["after"]["batch_norms"] == 1


def test_names_from_a_file_cannot_move_the_cursor_or_break_xml() -> None:
    graph = network()
    evil = 'a<b>&"\x1b[2J\n'
    nodes = tuple(replace(node, name=evil if node.name == "bn2" else node.name) for node in graph.nodes)
    graph = replace(graph, nodes=nodes)
    plan = fold(graph)
    assert "\x1b" not in plain(graph, plan)
    texts = [item.text for item in ElementTree.fromstring(picture(graph, plan)).iter(f"{SVG}text")]
    assert any(text and text.startswith('a<b>&"') for text in texts)


def test_the_picture_shows_what_stays_and_what_holds_it() -> None:
    graph = network()
    root = ElementTree.fromstring(picture(graph, fold(graph)))
    boxes = {rect.get("class"): group[2].text for group in root.iter(f"{SVG}g") for rect in group.iter(f"{SVG}rect")}
    assert boxes["kept"] == "bn2"
    assert boxes["folded"] == "bn1"
    assert boxes["holds"] in ("relu", "conv2")
    assert len(list(root.iter(f"{SVG}path"))) == 4
    assert "Conv: padding" in "".join(root.itertext())


def test_a_picture_of_nothing_says_so() -> None:
    b = Builder()
    graph = b.graph(b.relu("relu", b.batch_norm("bn", b.conv("conv", b.input(1, 3, 4, 4), 2))))
    assert "Nothing stays" in picture(graph, fold(graph))


def test_only_the_neighbourhood_is_drawn_in_layers() -> None:
    b = Builder()
    x = b.input(1, 4, 4, 4)
    for k in range(30):
        x = b.relu(f"relu{k}", b.batch_norm(f"bn{k}", b.conv(f"conv{k}", x, 4))) if k != 15 else b.batch_norm("bn", x)
    graph = b.graph(x)
    plan = fold(graph)
    assert [outcome.affine for outcome in plan.kept] == ["bn"]
    shown = around_kept(graph, plan)
    assert {"bn", "relu14", "conv16", "bn16"} <= shown
    assert len(shown) <= 12
    plot = drawing(graph, shown)
    place = {name: level for level, layer in enumerate(plot.layers) for name in layer}
    assert all(place[first] < place[second] for first, second in plot.edges)
    assert plot.hidden == len(graph.nodes) - len(shown)
    assert len(around_kept(graph, plan, steps=100, limit=20)) == 20


def test_crossings_are_swept_away() -> None:
    b = Builder()
    x = b.input(1, 4, 4, 4)
    tops = [b.relu(f"top{k}", x) for k in range(4)]
    for k in reversed(range(4)):
        b.relu(f"low{k}", tops[k])
    graph = b.graph("low0.y")
    layers = drawing(graph, set(graph.by_name)).layers
    assert [name[3:] for name in layers[0]] == [name[3:] for name in layers[1]]
