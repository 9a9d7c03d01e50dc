"""docs/patterns.md from the results."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pattern_suite.names import ONNX_TOOLS, TORCH_TOOLS

Json = dict[str, Any]
SIDES = {"torch": ("PyTorch", TORCH_TOOLS), "onnx": ("ONNX", ONNX_TOOLS)}
OURS = "bnfold"
BAD = {"wrong": "**wrong**", "invalid": "**invalid**", "interface": "**in/out**", "error": "error", "crash": "crash"}
HEAD = """# What is folded, pattern by pattern

Written by `python benchmarks/patterns.py` from `benchmarks/results/patterns.json`; don't edit it.

Every pattern is a small model with random numbers: no two channels alike, gammas of both signs unless the pattern says
otherwise. Every tool gets a fresh copy, in a process of its own. Its result is run on inputs of both signs (PyTorch:
and on their opposites) and compared with the original in float64; ONNX results are run in ONNX Runtime without
optimisation. A result is right when its error is at most 10 times the original's own rounding error, or 1e-5 of the
output's size (1e-2 in float16, 4e-2 in bfloat16).

| cell | means |
|---|---|
| ✓ | right, and as few affines as any right result can hold (where a fold would be wrong: left alone) |
| 1, 2, ... | right, with so many affines left, which is more than must be |
| refused | told in words why nothing was folded; no result was given |
| error, crash | an exception, or the process died or ran too long; no result was given |
| **wrong** | other numbers, without a message |
| **invalid** | a file that the ONNX checker or ONNX Runtime rejects |
| **in/out** | inputs or outputs are others than before |

An affine is a BatchNorm, or arithmetic with a constant of more than one number (a chain of it counts once). What counts
is what the result computes from its inputs, whatever form it has. "before" is the number of affines and operators of
the model as it comes, "least" the number of affines that must stay.
"""
NOTES = """## How far this can be trusted

- The patterns were chosen by the authors of bnfold, most of them because some tool fails on them. They say what is
  folded, not how often a pattern occurs: most BatchNorms of real networks stand right behind a convolution, where
  nearly every tool folds them.
- "least" is stated by hand. Where a result held fewer affines, the pattern was corrected.
- bnfold gives three results for PyTorch: the user's own module, in whose forward code can't be changed; the same at
  level max; and an exported program, in which all can. It is run as it comes: with `--bake`, the convolutions with
  weight_norm, spectral_norm or pruning fold in the module as well.
- Inductor's graph is taken behind freezing and run operator by operator, without its code generator; its changes of
  layout count as operators. Tools that fold as a part of quantisation (pt2e, AIMET, brevitas) are asked for no more
  than their folding. ONNX Runtime's extended level joins activations with convolutions; such a kernel counts as two.
- jit freeze folds what one trace shows: a branch on the data is gone from its result.
- A tool with an error may well fold the same layers in a model that it can trace.
- What each tool was asked for stands in `benchmarks/pattern_suite/torch_tools.py` and `onnx_tools.py`.
"""


def written(results: Json) -> str:
    """Give the page."""
    parts = [HEAD]
    for side, (title, tools) in SIDES.items():
        if side in results:
            parts += [f"## {title}\n", *_side(results[side], tools)]
    return "\n".join([*parts, NOTES])


def _side(found: Json, names: Sequence[str]) -> Iterator[str]:
    tools = [tool for tool in names if found["results"].get(tool)]
    versions = ", ".join(f"{tool} {found['versions'][tool]}" for tool in tools)
    absent = [tool for tool, version in found["versions"].items() if version is None]
    yield f"{len(found['patterns'])} patterns. {versions}." + (
        f" Not installed: {', '.join(absent)}." if absent else ""
    )
    yield ""
    yield from _totals(found, tools)
    for group, patterns in groupby(found["patterns"], key=lambda pattern: pattern["group"]):
        yield f"### {group[0].upper()}{group[1:]}\n"
        yield _row("pattern", "before", "least", *tools)
        yield _row("---", "---", "---", *("---" for _ in tools))
        for pattern in patterns:
            before = f"{pattern['affines']} of {pattern['operators']}"
            cells = (cell(found["results"][tool][pattern["name"]], pattern) for tool in tools)
            note = f" ({pattern['note']})" if pattern["note"] else ""
            yield _row(pattern["name"] + note, before, pattern["least"], *cells)
        yield ""
    yield from _lost(found, tools)


def cell(result: Json, pattern: Json) -> str:
    """Say in a word what came out."""
    if result["status"] == "right":
        return "✓" if result["affines"] <= pattern["least"] else str(result["affines"])
    return BAD.get(result["status"], result["status"])


def _totals(found: Json, tools: list[str]) -> Iterator[str]:
    patterns = found["patterns"]
    cells = {tool: [cell(found["results"][tool][p["name"]], p) for p in patterns] for tool in tools}
    yield _row("of all patterns", *tools)
    yield _row("---", *("---" for _ in tools))
    yield _row("✓", *(cells[tool].count("✓") for tool in tools))
    yield _row("right, affines left that could go", *(sum(c.isdigit() for c in cells[tool]) for tool in tools))
    for word in ("refused", *BAD.values()):
        if any(word in cells[tool] for tool in tools):
            yield _row(word, *(cells[tool].count(word) for tool in tools))
    yield ""


def _lost(found: Json, tools: list[str]) -> Iterator[str]:
    """Tell where bnfold leaves what could go, and where another tool's right result is smaller."""
    yield "### Where bnfold is not the best\n"
    lines = [line for pattern in found["patterns"] for line in _lines(found["results"], pattern, tools)]
    yield from lines or ["- Nowhere among these patterns."]
    yield ""


def _lines(results: Json, pattern: Json, tools: list[str]) -> Iterator[str]:
    ours = [results[tool][pattern["name"]] for tool in tools if tool.startswith(OURS)]
    right = [(result["affines"], result["operators"]) for result in ours if result["status"] == "right"]
    best = min(right, default=None)
    others = {
        tool: (result["affines"], result["operators"])
        for tool in tools
        if not tool.startswith(OURS) and (result := results[tool][pattern["name"]])["status"] == "right"
    }
    better = [tool for tool, count in others.items() if best is None or count < best]
    if best is None:
        said = next((result.get("message", result["status"]) for result in ours), "no result")
        yield f"- {pattern['name']}: no result ({said}); {_folding(better, others, pattern)}"
    elif best[0] > pattern["least"] or better:
        counts = f"{best[0]} affine{'s' * (best[0] != 1)}, {best[1]} operators; least {pattern['least']}"
        yield f"- {pattern['name']}: {counts}; {_folding(better, others, pattern)}"


def _folding(better: list[str], others: dict[str, tuple[int, int]], pattern: Json) -> str:
    fewer = [tool for tool in better if others[tool] < (pattern["affines"], pattern["operators"])]
    return (
        "better: " + ", ".join(f"{tool} ({'/'.join(map(str, others[tool]))})" for tool in fewer)
        if fewer
        else "nobody folds it"
    )


def _row(*cells: object) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
