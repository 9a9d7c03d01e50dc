"""A PyTorch file folded into another file: a checkpoint, state_dict, safetensors, pickled module, .pt2 or .onnx."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from bnfold.adapters import torch_onnx
from bnfold.adapters.torch_capture import arguments
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.adapters.torch_inputs import Inputs
from bnfold.adapters.torch_load import EDITS_KEY, FOLDED_FORMAT, Loaded, load_module
from bnfold.adapters.torch_module import fold_with_edits
from bnfold.adapters.torch_program import fold_program, require_same_program
from bnfold.adapters.torch_runs import require_telling
from bnfold.atomic import PatientFile, replacing
from bnfold.errors import BnfoldError
from bnfold.plan import Plan
from bnfold.result import FoldResult

KINDS = ("checkpoint", "state_dict", "safetensors", "module", "pt2", "onnx")
_BY_SUFFIX = {".pt2": "pt2", ".onnx": "onnx", ".safetensors": "safetensors"}
_SUFFIXES = {"pt2": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors", "program": ".pt2"}


@dataclass(frozen=True)
class Settings:
    """What to fold, and how."""

    level: str = "default"
    only: Sequence[str] = ()
    skip: Sequence[str] = ()
    plan: Plan | None = None
    dry_run: bool = False
    merge: bool = True

    def options(self) -> dict[str, Any]:
        """Give the keyword arguments that every fold takes."""
        return {name: getattr(self, name) for name in ("level", "only", "skip", "plan", "dry_run")}


def fold_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None = None,
    *,
    to: str | None = None,
    level: str = "default",
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    plan: Plan | None = None,
    dry_run: bool = False,
    in_place: bool = False,
    bake: bool = False,
    merge: bool = True,
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
    inputs: "Inputs" = None,
    trust: bool = False,
    max_bytes: int | None = None,
) -> FoldResult:
    """Fold a PyTorch file into another one; the result's model is the target's path.

    target: SOURCE.folded.EXT where it isn't given. to: one of `KINDS`; otherwise the target's extension decides, and
    then the kind of the source. dry_run: write nothing. in_place: the target may be the source. bake: make plain
    weights of parametrizations first. merge: let parallel linear branches become one convolution (.pt2 and .onnx).
    The rest: as `torch_load.load_module` takes them.
    Raises BnfoldError where the file can't be used, UnsafeError where opening it could run code, DifferentError where
    the result isn't the same function, UnverifiedError where no output changes with the inputs. The target is then as
    it was.
    """
    source = Path(source)
    loaded = load_module(source, arch=arch, arch_kwargs=arch_kwargs, inputs=inputs, trust=trust, max_bytes=max_bytes)
    kind = _kind(loaded, target, to)
    path = _target(source, target, kind, in_place)
    settings = Settings(level, only, skip, plan, dry_run, merge)
    if not loaded.example_inputs:
        raise BnfoldError(f"{source}: doesn't tell what the model takes; give --input, for example 1x3x224x224")
    if kind in ("pt2", "onnx"):
        result = _as_graph(loaded, path, kind, settings)
    else:
        result = _as_module(loaded, path, kind, settings, bake)
    return replace(result, model=path)


def _kind(loaded: Loaded, target: str | os.PathLike[str] | None, to: str | None) -> str:
    if to is not None and to not in KINDS:
        raise BnfoldError(f"--to {to}: unknown; it is one of {', '.join(KINDS)}")
    suffix = "" if target is None else Path(target).suffix
    if to is not None and _BY_SUFFIX.get(suffix, to) != to:
        raise BnfoldError(f"--to {to}: the name {target} says {_BY_SUFFIX[suffix]}; leave one of the two out")
    own = "pt2" if loaded.kind == "program" else loaded.kind
    kind = to or _BY_SUFFIX.get(suffix) or ("state_dict" if own == "safetensors" and suffix else own)
    if loaded.kind == "program" and kind not in ("pt2", "onnx"):
        raise BnfoldError(f"an ExportedProgram can't be written as a {kind}; choose .pt2 or .onnx")
    if kind == "checkpoint" and loaded.checkpoint is None:
        raise BnfoldError(
            f"--to checkpoint: only a checkpoint of bnfold has what one needs; choose {', '.join(KINDS[1:])}"
        )
    return kind


def _target(source: Path, target: str | os.PathLike[str] | None, kind: str, in_place: bool) -> Path:
    if target is None:
        if in_place:
            return source
        own = ".pt" if source.suffix in _BY_SUFFIX else source.suffix  # a state_dict may be called anything
        return source.with_name(f"{source.stem}.folded{_SUFFIXES.get(kind, own)}")
    path = Path(target)
    if path.exists() and path.samefile(source) and not in_place:
        raise BnfoldError(f"{path}: is the input; give another name, or --in-place")
    return path


# Graphs: .pt2 and .onnx.


def _as_graph(loaded: Loaded, path: Path, kind: str, settings: Settings) -> FoldResult:
    model = loaded.program or loaded.module
    options = {**settings.options(), "merge": settings.merge}
    if kind == "onnx" and not settings.dry_run:
        del options["dry_run"]
        exported = torch_onnx.export(model, loaded.example_inputs, path, **options)
        assert exported.fold is not None
        return exported.fold
    given = arguments(loaded.example_inputs)
    program, notes = torch_onnx.captured(model, given, None)
    result = fold_program(program, verify=False, **options)
    if not settings.dry_run:
        require_same_program(program, result.model, given)
        require_telling(program.module(), given, "the program")
        result.model.example_inputs = (given.args, dict(given.kwargs))  # a .pt2 that is read without code lost them
        save_program(result.model, path)
    return replace(result, notes=(*notes, *result.notes))


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a .pt2, whole or not at all."""
    with replacing(path) as temporary, PatientFile(temporary) as file:
        torch.export.save(program, file)


# Modules.


def _as_module(loaded: Loaded, path: Path, kind: str, settings: Settings, bake: bool) -> FoldResult:
    result, edits = fold_with_edits(loaded.module, loaded.example_inputs, bake=bake, **settings.options())
    if settings.dry_run:
        return result
    require_telling(loaded.module, arguments(loaded.example_inputs), type(loaded.module).__name__)
    edits = edits if loaded.edits is None else loaded.edits.then(edits)
    save_module(result.model, path, kind, edits, loaded)
    return result


def save_module(module: nn.Module, path: Path, kind: str, edits: ModuleEdits, loaded: Loaded) -> None:
    """Write a folded module as `kind`, whole or not at all, with the edits that loading needs."""
    if kind == "checkpoint":
        assert loaded.checkpoint is not None
        checkpoint = replace(loaded.checkpoint, state_dict=module.state_dict(), edits=edits.to_json())
        checkpoint.save(path)
        return
    state = {name: _plain(item) for name, item in module.state_dict().items()}
    with replacing(path) as temporary:
        if kind == "safetensors":
            try:
                safetensors.torch.save_file(_unshared(state), temporary, {EDITS_KEY: edits.to_json()})
            except safetensors.SafetensorError as error:
                raise BnfoldError(f"{path}: can't be written ({error}); make room or choose another folder") from error
            return
        content: Any = {"format": FOLDED_FORMAT, "version": 1, "edits": edits.to_json(), "state_dict": state}
        with PatientFile(temporary) as file:
            torch.save(module if kind == "module" else content, file)


def _plain(item: Any) -> Any:
    return item.detach().contiguous() if isinstance(item, Tensor) else item  # what get_extra_state gives is anything


def _unshared(state: dict[str, Any]) -> dict[str, Tensor]:
    """Copy what shares memory with another entry: safetensors stores no tensor twice."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise BnfoldError(
                f"{name} is of type {type(tensor).__name__}; safetensors stores tensors alone; choose .pt"
            )
        memory = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return result
