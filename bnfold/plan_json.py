"""A plan as JSON and back, exactly: float64 numbers are written so that they read back bit for bit.

The file is one object: format "bnfold.plan", version, `model` (what `fingerprint` gave, so that a plan isn't carried
out on another model), outcomes, edits, frames. Numbers that JSON doesn't know are the strings "inf", "-inf" and "nan".
A vector is a list; an array of another rank is {"shape", "numbers"}, row-major.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import Any, NoReturn

import numpy as np

from bnfold.affine import Affine, Chain, Chains, Floats
from bnfold.errors import BnfoldError
from bnfold.graph import Constant, Graph
from bnfold.ops import Conv
from bnfold.plan import (
    Balance,
    Edit,
    Folded,
    Kept,
    Merge,
    Outcome,
    Plan,
    Reason,
    Remove,
    ReplaceByClip,
    ScaleWeight,
    SetBias,
    SetBounds,
    SetConstants,
)
from bnfold.why import Why

FORMAT, VERSION = "bnfold.plan", 1
SMALL = 1 << 16  # elements; statistics and biases are smaller, and hashing every weight would read the whole file
_BY_CODE = {why.code: why for why in Why}


def to_json(plan: Plan, graph: Graph | None = None) -> dict[str, Any]:
    """Give the plan as JSON values. graph: the model that it was made for."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": None if graph is None else fingerprint(graph),
        "outcomes": [outcome_to_json(outcome) for outcome in plan.outcomes],
        "edits": [_edit_to_json(edit) for edit in plan.edits],
        **_frames_to_json(plan.frames),
    }


def from_json(data: object, graph: Graph | None = None, where: str = "plan") -> Plan:
    """Read what `to_json` gave.

    graph: the model that it is to be carried out on. where: the file's name, for messages.
    Raises BnfoldError where it is no plan, of another version, damaged, or was made for another model.
    """
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise BnfoldError(f'{where}: not a plan (no "format": "{FORMAT}"); make one with bnfold fold --save-plan')
    if data.get("version") != VERSION:
        raise BnfoldError(f"{where}: plan version {data.get('version')!r}, this bnfold reads {VERSION}; make it anew")
    try:
        plan = Plan(
            tuple(_outcome_from_json(item) for item in data["outcomes"]),
            tuple(_edit_from_json(item) for item in data["edits"]),
            _frames_from_json(data["frames"], data.get("inner", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BnfoldError(f"{where}: a damaged plan ({type(error).__name__}: {error}); make it anew") from error
    if graph is not None:
        _check_model(plan, data.get("model"), graph, where)
    return plan


def dumps(plan: Plan, graph: Graph | None = None) -> str:
    """Give the text of a plan file; the same plan gives the same text."""
    return json.dumps(to_json(plan, graph), indent=1, allow_nan=False) + "\n"


def loads(text: str, graph: Graph | None = None, where: str = "plan") -> Plan:
    """Read a plan file's text. Raises as `from_json` does."""
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BnfoldError(f"{where}: not JSON ({error}); make a plan with bnfold fold --save-plan") from error
    return from_json(data, graph, where)


def digest(plan: Plan) -> str:
    """Give a SHA-256 of all that the plan says."""
    return _sha256(json.dumps(to_json(plan), sort_keys=True, separators=(",", ":")))


def fingerprint(graph: Graph) -> str:
    """Give a SHA-256 of the graph's structure and its small constants: statistics, affine parameters, biases."""
    sizes = ((name, constant) for name, constant in sorted(graph.constants.items()) if _used(graph, name))
    parts = [str(graph), repr((graph.inputs, graph.outputs))]
    for name, constant in sizes:
        numbers = _sha256(constant.load().astype("<f8").tobytes()) if _is_small(constant) else ""
        parts.append(f"{name} {constant.shape} {constant.dtype} {numbers}")
    return _sha256("\n".join(parts))


def outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    """Give one affine's outcome, with code, sentence and advice for every reason."""
    match outcome:
        case Folded(affine, into):
            return {"affine": affine, "outcome": "folded", "into": list(into)}
        case Kept(affine, why):
            return {"affine": affine, "outcome": "kept", "why": [_reason_to_json(reason) for reason in why]}


def _reason_to_json(reason: Reason) -> dict[str, str]:
    why = reason.why
    return {"node": reason.node, "code": why.code, "sentence": why.sentence, "advice": why.advice}


def _outcome_from_json(item: Mapping[str, Any]) -> Outcome:
    name = _text(item["affine"])
    if item["outcome"] == "folded":
        return Folded(name, tuple(_text(node) for node in item["into"]))
    if item["outcome"] != "kept":
        raise ValueError(f"unknown outcome {item['outcome']!r}")
    return Kept(name, tuple(Reason(_text(row["node"]), _BY_CODE[row["code"]]) for row in item["why"]))


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    match edit:
        case ScaleWeight(node, out_factor, in_factor, balance):
            more: dict[str, Any] = {"out_factor": _numbers(out_factor), "in_factor": _numbers(in_factor)}
            if balance is not None:
                more["balance"] = {item.name: _numbers(getattr(balance, item.name)) for item in fields(balance)}
        case SetBias(node, bias):
            more = {"bias": _numbers(bias)}
        case SetConstants(node, constants):
            more = {"constants": {str(index): _numbers(array) for index, array in constants.items()}}
        case SetBounds(node, lo, hi):
            more = {"lo": _bound(lo), "hi": _bound(hi)}
        case ReplaceByClip(node, axis, lows, highs):
            more = {"axis": axis, "lo": _numbers(lows), "hi": _numbers(highs)}
        case Merge(node, x, op, branches, after, inner):
            more = {"x": x, "op": asdict(op), "branches": list(map(list, branches))}
            more |= {"after": list(after), "inner": list(inner)}
        case Remove(node):
            more = {}
    return {"edit": type(edit).__name__, "node": node, **more}


def _scale_weight(node: str, item: Mapping[str, Any]) -> Edit:
    given = item.get("balance")
    balance = Balance(*(_array(given[one.name]) for one in fields(Balance))) if given is not None else None
    return ScaleWeight(node, _array(item["out_factor"]), _array(item["in_factor"]), balance)


def _set_constants(node: str, item: Mapping[str, Any]) -> Edit:
    return SetConstants(node, {int(index): _array(numbers) for index, numbers in item["constants"].items()})


def _set_bounds(node: str, item: Mapping[str, Any]) -> Edit:
    return SetBounds(node, *(None if item[key] is None else float(item[key]) for key in ("lo", "hi")))


def _replace_by_clip(node: str, item: Mapping[str, Any]) -> Edit:
    return ReplaceByClip(node, int(item["axis"]), _array(item["lo"]), _array(item["hi"]))


def _merge(node: str, item: Mapping[str, Any]) -> Edit:
    branches = tuple(tuple(_text(name) for name in branch) for branch in item["branches"])
    after, inner = (tuple(_text(name) for name in item[key]) for key in ("after", "inner"))
    return Merge(node, _text(item["x"]), _conv(item["op"]), branches, after, inner)


_EDITS: Mapping[str, Callable[[str, Mapping[str, Any]], Edit]] = {
    "ScaleWeight": _scale_weight,
    "SetBias": lambda node, item: SetBias(node, _array(item["bias"])),
    "SetConstants": _set_constants,
    "SetBounds": _set_bounds,
    "ReplaceByClip": _replace_by_clip,
    "Remove": lambda node, item: Remove(node),
    "Merge": _merge,
}


def _edit_from_json(item: Mapping[str, Any]) -> Edit:
    return _EDITS[item["edit"]](_text(item["node"]), item)


def _conv(item: Mapping[str, Any]) -> Conv:
    pads = item["pads"] if item["pads"] is None else tuple((int(low), int(high)) for low, high in item["pads"])
    strides, dilations = (tuple(int(size) for size in item[key]) for key in ("strides", "dilations"))
    return Conv(strides, dilations, pads, int(item["groups"]), _text(item["pad_mode"]))


def _frames_to_json(frames: Chains) -> dict[str, Any]:
    """Give `frames`, the outermost of each value, and `inner`: those within them, each with what is within it."""
    within = {name: _chain_to_json(chain[1:]) for name, chain in frames.items() if chain[1:]}
    outer = {name: _chain_to_json(chain[:1]) for name, chain in frames.items()}
    return {"frames": outer, "inner": within} if within else {"frames": outer}


def _chain_to_json(chain: Chain) -> dict[str, Any]:
    frame, *rest = chain
    item = {"axis": frame.axis, "scale": _numbers(frame.scale), "shift": _numbers(frame.shift)}
    return {**item, "inner": _chain_to_json(tuple(rest))} if rest else item


def _frames_from_json(outer: Mapping[str, Any], within: Mapping[str, Any]) -> dict[str, Chain]:
    lone = within.keys() - outer.keys()
    if lone:
        raise ValueError(f"a frame within none: {min(lone)}")
    return {str(name): (*_chain_from_json(item), *_chain_from_json(within.get(name))) for name, item in outer.items()}


def _chain_from_json(item: Mapping[str, Any] | None) -> Iterator[Affine]:
    while item is not None:
        yield Affine(int(item["axis"]), _array(item["scale"]), _array(item["shift"]))
        item = item.get("inner")


def _numbers(array: Floats) -> Any:
    flat = [number if np.isfinite(number) else str(number) for number in array.reshape(-1).tolist()]
    return flat if array.ndim == 1 else {"shape": list(array.shape), "numbers": flat}


def _array(item: Any) -> Floats:
    if isinstance(item, Mapping):
        return _array(item["numbers"]).reshape(tuple(item["shape"]))
    return np.array([float(number) for number in item], np.float64)


def _bound(bound: float | None) -> float | str | None:
    return bound if bound is None or np.isfinite(bound) else str(float(bound))


def _text(item: object) -> str:
    if not isinstance(item, str):
        raise TypeError(f"wanted a name, got {item!r}")
    return item


def _no_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is no JSON")


def _used(graph: Graph, name: str) -> bool:
    return name in graph.readers


def _is_small(constant: Constant) -> bool:
    return int(np.prod(constant.shape)) <= SMALL


def _sha256(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _check_model(plan: Plan, model: object, graph: Graph, where: str) -> None:
    named = [outcome.affine for outcome in plan.outcomes] + [edit.node for edit in plan.edits]
    missing = [name for name in named if name not in graph.by_name]
    if missing:
        raise BnfoldError(f"{where}: a plan for another model: it names {missing[0]!r}, which this one doesn't have")
    if model is not None and model != fingerprint(graph):
        raise BnfoldError(f"{where}: a plan for another model, or for other weights of this one; make it anew")
