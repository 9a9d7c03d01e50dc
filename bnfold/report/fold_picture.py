"""A picture (SVG) of the graph around the affines that stay: these, what holds them, and their neighbours."""

from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape

from bnfold import ops
from bnfold.graph import Graph, Node
from bnfold.plan import Folded, Plan
from bnfold.printable import visible
from bnfold.report.fold_layers import Drawing, around_kept, drawing

BOX, GAP, ROW, MARGIN = (190, 40), 24, 84, 24  # sizes in pixels: a node, between nodes, between layers, around
LEGEND = 28
CHARACTERS = 27  # of 11-pixel sans-serif text in a box
_STYLE = """
text{font:11px system-ui,sans-serif;fill:#1f2328}
.node{fill:#f6f8fa;stroke:#8c959f}
.kept{fill:#fff8c5;stroke:#9a6700;stroke-width:2}
.holds{fill:#ffebe9;stroke:#cf222e;stroke-width:2}
.folded{fill:#dafbe1;stroke:#1a7f37;stroke-dasharray:4 3}
.edge{fill:none;stroke:#8c959f}
.small{font-size:9.5px;fill:#57606a}
"""


def picture(graph: Graph, plan: Plan) -> str:
    """Give an SVG document. Where nothing stays, it says so."""
    plot = drawing(graph, around_kept(graph, plan))
    places = dict(_places(plot))
    width = max([x + BOX[0] for x, _ in places.values()] + [420]) + MARGIN
    height = max([y + BOX[1] for _, y in places.values()] + [LEGEND]) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<title>{_title(plan, plot)}</title><style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{MARGIN}" y="{MARGIN}">{_title(plan, plot)}</text>',
        *(_edge(places[first], places[second]) for first, second in plot.edges),
        *_boxes(graph, plan, places),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _title(plan: Plan, plot: Drawing) -> str:
    if not plan.kept:
        return "Nothing stays: every affine was folded."
    hidden = f"; {plot.hidden} nodes farther away are not shown" if plot.hidden else ""
    return f"{len(plan.kept)} of {len(plan.outcomes)} affines stay (yellow), held by the red nodes{hidden}"


def _places(plot: Drawing) -> Iterator[tuple[str, tuple[int, int]]]:
    """Give each node's upper left corner; layers are centred on the widest."""
    widest = max((len(layer) for layer in plot.layers), default=0)
    for level, layer in enumerate(plot.layers):
        start = MARGIN + (widest - len(layer)) * (BOX[0] + GAP) // 2
        for k, name in enumerate(layer):
            yield name, (start + k * (BOX[0] + GAP), MARGIN + LEGEND + level * ROW)


def _edge(first: tuple[int, int], second: tuple[int, int]) -> str:
    x1, y1 = first[0] + BOX[0] // 2, first[1] + BOX[1]
    x2, y2 = second[0] + BOX[0] // 2, second[1]
    middle = (y1 + y2) // 2
    return f'<path class="edge" d="M{x1} {y1} C{x1} {middle} {x2} {middle} {x2} {y2}"/>'


def _boxes(graph: Graph, plan: Plan, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    kept = {outcome.affine for outcome in plan.kept}
    gone = {outcome.affine for outcome in plan.outcomes if isinstance(outcome, Folded)}
    codes: dict[str, list[str]] = {}
    for outcome in plan.kept:
        for reason in outcome.why:
            codes.setdefault(reason.node, [])
            if reason.why.code not in codes[reason.node]:
                codes[reason.node].append(reason.why.code)
    for name, (x, y) in places.items():
        kind = "kept" if name in kept else "folded" if name in gone else "holds" if name in codes else "node"
        yield _box(graph.by_name[name], (x, y), kind, ", ".join(codes.get(name, ())))


def _box(node: Node, place: tuple[int, int], kind: str, codes: str) -> str:
    x, y = place
    name = node.op.kind if isinstance(node.op, ops.Unknown) else type(node.op).__name__
    second = f"{name}: {codes}" if codes else name
    return (
        f"<g><title>{escape(visible(f'{node.name}: {second}'))}</title>"
        f'<rect class="{kind}" x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="5"/>'
        f'<text x="{x + 8}" y="{y + 16}">{escape(_short(visible(node.name)))}</text>'
        f'<text class="small" x="{x + 8}" y="{y + 31}">{escape(_short(visible(second), CHARACTERS + 6))}</text></g>'
    )


def _short(text: str, most: int = CHARACTERS) -> str:
    """Leave out the middle: paths differ at their ends."""
    if len(text) <= most:
        return text
    return f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"
