"""Folding model files of every kind: which adapter, where the result goes, and which plan is carried out."""

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from bnfold.errors import BnfoldError
from bnfold.formats import Kind, kind_of
from bnfold.graph import Graph
from bnfold.plan import Plan
from bnfold.record import record
from bnfold.result import FoldResult

_SHOWN = 8  # names in a message
VERIFIED = "verified: its outputs are as near to the float64 truth as the original's"
AUDITED = "audited: every changed weight is the float64 one, rounded once; --verify runs the model as well"


@record
class Request:
    """A fold that somebody asks for.

    target: empty for SOURCE.folded.SUFFIX, or for the source itself with in_place. level, only, skip: as
    `bnfold.folding.fold` takes them. plan: a plan file to carry out. arch, arch_arguments, inputs, trust, max_bytes:
    how a PyTorch file is opened (`bnfold.adapters.torch_load.load_module`); to: the kind of its result. bake: make
    plain weights of parametrizations first.
    freeze_inputs: ONNX initializers that are inputs too are constants. external_data: auto, never or always (ONNX).
    dry_run: write nothing. verify: run an ONNX result against the original (a PyTorch one, and one of a plan file, is
    run in any case).
    merge: let parallel linear branches become one convolution, where the format allows (.onnx, .pt2).
    must_match: those of only and skip that are a mistake where no affine has such a name.
    """

    source: Path
    target: Path | None = None
    to: str | None = None
    level: str = "default"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    plan: Path | None = None
    arch: str | None = None
    arch_arguments: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    trust: bool = False
    max_bytes: int | None = None
    bake: bool = False
    freeze_inputs: bool = False
    external_data: str = "auto"
    in_place: bool = False
    dry_run: bool = False
    verify: bool = False
    merge: bool = True
    must_match: tuple[str, ...] = ()


def fold_file(request: Request) -> FoldResult:
    """Fold a model file; the result's model is the Path of what was written (or would be, in a dry run).

    Raises BnfoldError where the file, the plan or the target can't be used, UnsafeError where opening it could run
    code, DifferentError where the result isn't the same function; the target is then as it was.
    """
    fold = _fold_onnx if kind_of(request.source) is Kind.ONNX else _fold_torch
    if request.must_match:
        require_matches(fold(replace(request, dry_run=True)).plan, request.must_match, request.source)
    return fold(request)


def require_matches(plan: Plan, patterns: Sequence[str], source: Path) -> None:
    """Raise BnfoldError for a pattern of --only or --skip that is no affine's name."""
    names = [outcome.affine for outcome in plan.outcomes]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            there = f"they are {', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)}" if names else "it has none"
            raise BnfoldError(f"{source}: no BatchNorm or other affine matches {pattern!r}; {there}")


def _fold_torch(request: Request) -> FoldResult:
    from bnfold.adapters.torch_file import fold_file as fold_torch_file

    _refuse_onnx_options(request)
    write = partial(
        fold_torch_file,
        request.source,
        _target(request),
        level=request.level,
        only=request.only,
        skip=request.skip,
        in_place=request.in_place,
        bake=request.bake,
        merge=request.merge,
        to=request.to,
        max_bytes=request.max_bytes,
        arch=request.arch,
        arch_kwargs=request.arch_arguments,
        inputs=request.inputs or None,
        trust=request.trust,
    )
    plan = None
    if request.plan is not None:
        plan = read_plan(request.plan, write(plan=Plan((), ()), dry_run=True).graph)
    result = write(plan=plan, dry_run=request.dry_run)
    return result if request.dry_run else _with_note(result, VERIFIED)


def _fold_onnx(request: Request) -> FoldResult:
    from bnfold.adapters.onnx_file import fold_file as fold_onnx_file
    from bnfold.adapters.onnx_file import raised_for_onnx, read

    _refuse_torch_options(request)
    plan = None
    if request.plan is not None:
        plan = read_plan(request.plan, raised_for_onnx(read(request.source, freeze_inputs=request.freeze_inputs)))
    target = _target(request)
    if target is not None and target.suffix in (".pt", ".pth", ".pt2", ".safetensors"):
        raise BnfoldError(f"{target}: an ONNX model is folded into an ONNX model; give a name that ends in .onnx")
    write = partial(
        fold_onnx_file,
        request.source,
        level=request.level,
        only=request.only,
        skip=request.skip,
        external_data=request.external_data,
        freeze_inputs=request.freeze_inputs,
        plan=plan,
        in_place=request.in_place,
        merge=request.merge,
    )
    if request.dry_run:
        return write(target, dry_run=True)
    if not request.verify and plan is None:  # what a file tells may lack an edit: no changed weight shows that
        return _with_note(write(target), AUDITED)
    import tempfile

    with tempfile.TemporaryDirectory(prefix="bnfold-") as folder:
        _verify(request.source, write(Path(folder) / "folded.onnx").model)
    return _with_note(write(target), VERIFIED)


def _refuse_onnx_options(request: Request) -> None:
    """Raise BnfoldError where a PyTorch model is given what only an ONNX one can use, as `_refuse_torch_options`."""
    given = {"--freeze-inputs": request.freeze_inputs, "--external-data": request.external_data != "auto"}
    _refuse(request, "a PyTorch model", given)


def _refuse_torch_options(request: Request) -> None:
    """Raise BnfoldError where an ONNX model is given what only a PyTorch one can use: ignored, it would mislead."""
    given = {
        "--arch": request.arch,
        "--arch-kwargs": request.arch_arguments,
        "--input": request.inputs,
        "--bake": request.bake,
        "--to": request.to not in (None, "onnx"),
    }
    _refuse(request, "an ONNX model", given)


def _refuse(request: Request, kind: str, given: Mapping[str, object]) -> None:
    names = [name for name, value in given.items() if value]
    if names:
        raise BnfoldError(f"{request.source}: is {kind}; {', '.join(names)} can't be used with it")


def _verify(source: Path, folded: Path) -> None:
    """Run both; raises DifferentError or UnverifiedError, before the result takes its name."""
    from bnfold.checking import check

    check(source, folded).raise_for_failure()


def _with_note(result: FoldResult, note: str) -> FoldResult:
    return replace(result, notes=(*result.notes, note))


def read_plan(path: Path, graph: Graph) -> Plan:
    """Read a plan file for the model that it is to be carried out on. Raises BnfoldError as `plan_json.loads` does."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BnfoldError(f"{path}: no such file; make it with bnfold fold --save-plan") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise BnfoldError(f"{path}: can't be read ({why}); make it with bnfold fold --save-plan") from error
    from bnfold.plan_json import loads

    return loads(text, graph, str(path))


def _target(request: Request) -> Path | None:
    """Check what the adapters can't know: that --in-place and -o don't contradict each other."""
    if request.in_place and request.target is not None and request.target != request.source:
        raise BnfoldError(f"--in-place writes {request.source}, and -o says {request.target}; give one of the two")
    return request.target
