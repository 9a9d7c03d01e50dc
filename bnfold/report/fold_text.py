"""A fold for people: every affine, what it went into or why it stays, and the totals; plain, or with rich."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnfold import ops
from bnfold.graph import Graph
from bnfold.plan import Folded, Outcome, Plan
from bnfold.printable import visible
from bnfold.record import record
from bnfold.report.fold_totals import Totals, totals
from bnfold.why import Why

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 4  # names or reasons in a cell; the JSON form has them all


@record
class Row:
    """One affine. kind: BatchNorm or affine. detail: what it went into, or why it stays; whys: the reasons shown."""

    name: str
    kind: str
    folded: bool
    detail: tuple[str, ...]
    whys: tuple[Why, ...] = ()

    @property
    def word(self) -> str:
        """`folded` or `stays`."""
        return "folded" if self.folded else "stays"


def rows(graph: Graph, plan: Plan) -> list[Row]:
    """Give one row for each affine, in the graph's order."""
    return [_row(graph, outcome) for outcome in plan.outcomes]


def _row(graph: Graph, outcome: Outcome) -> Row:
    node, name = graph.by_name.get(outcome.affine), visible(outcome.affine)
    kind = "BatchNorm" if node is not None and isinstance(node.op, ops.BatchNorm) else "affine"
    if isinstance(outcome, Folded):
        return Row(name, kind, True, (f"into {_some(outcome.into)}" if outcome.into else "is the identity",))
    detail = [f"{visible(str(reason))} [{reason.why.code}]" for reason in outcome.why[:SHOWN]]
    if len(outcome.why) > SHOWN:
        detail.append(f"and {len(outcome.why) - SHOWN} more (--json has all)")
    return Row(name, kind, False, tuple(detail), tuple(reason.why for reason in outcome.why[:SHOWN]))


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - SHOWN
    return ", ".join(map(visible, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")


def plain(graph: Graph, plan: Plan) -> str:
    """Give the report as text without colours or control characters, for files, pipes and logs."""
    found = rows(graph, plan)
    lines = list(_table(found)) if found else ["no BatchNorm and no other per-channel affine found"]
    return "\n".join([*lines, *merged(plan), *_advice_table(found), "", *_totals_table(*totals(graph, plan))])


def merged(plan: Plan) -> Iterator[str]:
    """Say which branches became one convolution."""
    for merge in plan.merges:
        yield f"{visible(merge.node)}: one convolution in the place of {_some(merge.nodes)}"


def _table(found: list[Row]) -> Iterator[str]:
    name_width = max(len(row.name) for row in found)
    for row in found:
        head = f"{row.name:{name_width}}  {row.kind:9}  {row.word:6}  "
        for k, line in enumerate(row.detail):
            yield (head if k == 0 else " " * len(head)) + line


def advice(found: list[Row]) -> dict[str, str]:
    """Give the way out for every code that the rows show, once."""
    return {why.code: why.advice for row in found for why in row.whys}


def _advice_table(found: list[Row]) -> Iterator[str]:
    ways = advice(found)
    if ways:
        yield ""
        yield "what to do (bnfold explain CODE says more)"
    for code, way in ways.items():
        yield f"{code:{max(map(len, ways))}}  {way}"


def _totals_table(before: Totals, after: Totals) -> Iterator[str]:
    yield f"{'':22}{'before':>15}{'after':>15}"
    for label, old, new in total_rows(before, after):
        yield f"{label:22}{old:>15}{new:>15}"


def total_rows(before: Totals, after: Totals) -> Iterator[tuple[str, str, str]]:
    """Give (label, before, after), formatted; a line on other affines only where there are some."""
    yield "BatchNorms", f"{before.batch_norms:,}", f"{after.batch_norms:,}"
    if before.affines:
        yield "other affines", f"{before.affines:,}", f"{after.affines:,}"
    yield "operators", f"{before.operators:,}", f"{after.operators:,}"
    yield "parameters", f"{before.parameters:,}", f"{after.parameters:,}"
    yield "multiply-adds", _count(before.multiply_adds), _count(after.multiply_adds)


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def show(graph: Graph, plan: Plan, console: "Console") -> None:
    """Print the report in colour, as wide as the terminal."""
    from rich.markup import escape
    from rich.table import Table

    found = rows(graph, plan)
    table = Table("affine", "kind", "outcome", "into, or why it stays", box=None, pad_edge=False, header_style="bold")
    table.columns[0].overflow = "fold"  # a name that ends in dots can't be given to --only
    styles: Mapping[bool, str] = {True: "green", False: "yellow"}
    for row in found:
        word = f"[{styles[row.folded]}]{row.word}[/]"
        table.add_row(escape(row.name), row.kind, word, "\n".join(map(escape, row.detail)))
    ways = Table("code", "what to do (bnfold explain CODE says more)", box=None, pad_edge=False, header_style="bold")
    for code, way in advice(found).items():
        ways.add_row(code, escape(way))
    sums = Table("", "before", "after", box=None, pad_edge=False, header_style="bold")
    for column in sums.columns[1:]:
        column.justify = "right"
    for cells in total_rows(*totals(graph, plan)):
        sums.add_row(*cells)
    console.print(table)
    for line in merged(plan):
        console.print(escape(line))
    if ways.row_count:
        console.print()
        console.print(ways)
    console.print()
    console.print(sums)
