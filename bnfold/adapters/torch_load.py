"""PyTorch files to modules: checkpoints, state_dicts, pickled modules of torch.nn layers, .pt2, safetensors."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn.parameter import is_lazy

from bnfold.adapters import torch_factory, torch_inputs, torch_pickle, torch_pt2
from bnfold.adapters.torch_edits import ModuleEdits
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.formats import Kind, kind_of
from bnfold.training import run_state
from bnfold.training.checkpoint import Checkpoint, is_checkpoint

FOLDED_FORMAT = "bnfold.folded"  # a state_dict with the edits of its fold
EDITS_KEY = "bnfold.edits"  # in a safetensors file's metadata
_NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net", "network", "module", "state_dict_ema", "weights")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_BATCH = 2


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model from a file, in eval mode on the CPU, and what the file tells about it.

    example_inputs: positional arguments; empty where neither the file nor the caller gave any.
    normalisation: (mean, std) by channel that the data was given, where the checkpoint knows.
    kind: checkpoint, state_dict, safetensors, module or program. program: the ExportedProgram of a .pt2.
    """

    module: nn.Module
    example_inputs: tuple[Tensor, ...]
    kind: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    checkpoint: Checkpoint | None = None
    edits: ModuleEdits | None = None
    program: ExportedProgram | None = None


def load_module(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    arch_kwargs: Mapping[str, Any] | None = None,
    inputs: "torch_inputs.Inputs" = None,
    trust: bool = False,
    max_bytes: int | None = None,
) -> Loaded:
    """Open a PyTorch model file of any kind, told by its content.

    arch, arch_kwargs: what builds the network of a state_dict (`torch_factory.FORMS`). inputs: example inputs
    (`torch_inputs.examples`); a checkpoint's own are used where none are given. trust: let the file run code.
    max_bytes: the most that an archive may unpack to (default 16 GiB).
    Raises BnfoldError for a file that can't be used, UnsafeError for one that can't be opened safely.
    """
    source = Path(path)
    kind = kind_of(source)
    if kind is Kind.ONNX:
        raise BnfoldError(f"{source}: is an ONNX model; wanted a PyTorch file")
    if kind is Kind.TORCHSCRIPT:
        raise UnsafeError(
            f"{source}: is a TorchScript archive, which is deprecated and runs code when loaded; "
            "export the original module with torch.export.save (.pt2), or save its state_dict and give --arch"
        )
    if kind is Kind.PT2:
        return _from_program(source, inputs, trust, max_bytes)
    if kind is Kind.SAFETENSORS:
        state, edits = _read_safetensors(source)
        return _from_state_dict(source, state, edits, arch, arch_kwargs, inputs, "safetensors")
    content = torch_pickle.load(source, kind, trust=trust, max_bytes=max_bytes)
    if is_checkpoint(content) and arch is None:
        return _from_checkpoint(source, content, inputs)
    if isinstance(content, nn.Module):
        return _from_module(source, content, inputs)
    state, edits = _state_dict(source, content)
    return _from_state_dict(source, state, edits, arch, arch_kwargs, inputs, "state_dict")


def _from_checkpoint(source: Path, content: Mapping[str, object], inputs: "torch_inputs.Inputs") -> Loaded:
    checkpoint = Checkpoint.from_dict(content, str(source))
    skeleton = checkpoint.skeleton(str(source))
    edits = None
    if checkpoint.edits is not None:
        edits = ModuleEdits.from_json(checkpoint.edits, str(source))
        edits.apply(skeleton)
    module = checkpoint.fill(skeleton, str(source))
    given = torch_inputs.examples(inputs, module)
    default = (torch_inputs.random_tensor((_BATCH, *checkpoint.input_shape), _dtype_of(module)),)
    normalisation = (checkpoint.mean, checkpoint.std)
    return Loaded(module, given or default, "checkpoint", normalisation, checkpoint, edits)


def _dtype_of(module: nn.Module) -> torch.dtype:
    floating = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return next(floating, torch.float32)


def _from_program(source: Path, inputs: "torch_inputs.Inputs", trust: bool, max_bytes: int | None) -> Loaded:
    program, samples = torch_pt2.read_program(source, trust=trust, max_bytes=max_bytes)
    module = program.module()
    given = torch_inputs.examples(inputs, module)
    return Loaded(module, given or samples, "program", program=program)


def _from_module(source: Path, module: nn.Module, inputs: "torch_inputs.Inputs") -> Loaded:
    refuse_unfinished(module, str(source))
    try:
        module.eval()
    except Exception as error:
        raise BnfoldError(f"{source}: not a working nn.Module ({type(error).__name__}: {error})") from error
    return Loaded(module, torch_inputs.examples(inputs, module), "module")


def refuse_unfinished(module: nn.Module, source: str) -> None:
    """Raise BnfoldError where a parameter or buffer has no numbers yet: a lazy module, or one on the meta device."""
    try:
        tensors = [*module.named_parameters(), *module.named_buffers()]
    except Exception as error:
        raise BnfoldError(f"{source}: not a working nn.Module ({type(error).__name__}: {error})") from error
    for name, tensor in tensors:
        if is_lazy(tensor):
            raise BnfoldError(f"{source}: {name} is not initialised yet (a lazy module); run the model once first")
        if tensor.is_meta:
            raise BnfoldError(f"{source}: {name} is on the meta device and has no numbers; load its weights first")


def _state_dict(source: Path, content: object) -> tuple[dict[str, Tensor], ModuleEdits | None]:
    """Find the state_dict: the content itself, or under one of the usual keys."""
    edits = None
    if isinstance(content, dict) and content.get("format") == FOLDED_FORMAT:
        edits = ModuleEdits.from_json(str(content.get("edits")), str(source))
    if isinstance(content, dict) and content.get("format") == run_state.FORMAT:
        raise BnfoldError(f"{source}: is {run_state.KIND}, and no model; give the checkpoint that lies beside it")
    for _ in range(3):
        if _is_state_dict(content):
            return dict(content), edits  # type: ignore[call-overload]
        if isinstance(content, dict):
            content = next((content[key] for key in _NESTED_UNDER if isinstance(content.get(key), dict)), None)
    raise BnfoldError(f"{source}: holds no state_dict; wanted a dict of tensors, also under {', '.join(_NESTED_UNDER)}")


def _is_state_dict(content: object) -> bool:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        return False
    values = [value for name, value in content.items() if not _is_extra(name)]
    return any(isinstance(value, Tensor) for value in values) and not any(
        isinstance(value, (dict, list)) and len(value) > 0 for value in values
    )


def _is_extra(name: str) -> bool:
    """Whether it names what a module's own get_extra_state gave, which may be anything."""
    return name.rpartition(".")[2] == "_extra_state"


def _read_safetensors(source: Path) -> tuple[dict[str, Tensor], ModuleEdits | None]:
    try:
        with safetensors.safe_open(source, framework="pt") as file:
            text = (file.metadata() or {}).get(EDITS_KEY)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:
        raise BnfoldError(f"{source}: a damaged safetensors file ({error})") from error
    return state, None if text is None else ModuleEdits.from_json(text, str(source))


def _from_state_dict(
    source: Path,
    state: dict[str, Tensor],
    edits: ModuleEdits | None,
    arch: str | None,
    arch_kwargs: Mapping[str, Any] | None,
    inputs: "torch_inputs.Inputs",
    kind: str,
) -> Loaded:
    if arch is None:
        raise BnfoldError(f"{source}: holds weights only; say what builds the network: --arch {torch_factory.FORMS}")
    module = torch_factory.build(arch, arch_kwargs)
    if edits is not None:
        edits.apply(module)
    _fill(source, module, state, arch)
    refuse_unfinished(module, str(source))
    module.eval()
    return Loaded(module, torch_inputs.examples(inputs, module) or _own(arch, module), kind, edits=edits)


def _own(arch: str, module: nn.Module) -> tuple[Tensor, ...]:
    """Give inputs for a network of bnfold.models: its table knows their shape."""
    from bnfold.models import ARCHITECTURES

    if arch not in ARCHITECTURES:
        return ()
    return (torch_inputs.random_tensor((_BATCH, *ARCHITECTURES[arch].input_shape), _dtype_of(module)),)


def _fill(source: Path, module: nn.Module, state: dict[str, Tensor], arch: str) -> None:
    wanted = module.state_dict()
    state = _without_prefix(state, wanted)
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {_shape(state[name])}, not {_shape(tensor)}"
        for name, tensor in wanted.items()
        if name in state and not _is_extra(name) and _shape(state[name]) != _shape(tensor)
    ]
    problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in unknown] + shapes
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BnfoldError(f"{source}: doesn't fit --arch {arch}: {'; '.join(problems[:3])}{more}")
    try:
        module.load_state_dict(_in_dtype_of(state, wanted, module), strict=False)
    except Exception as error:
        raise BnfoldError(f"{source}: doesn't fit --arch {arch} ({json.dumps(str(error)[:200])})") from error


def _shape(item: object) -> str:
    return str(tuple(item.shape)) if isinstance(item, Tensor) else f"a {type(item).__name__}"


def _in_dtype_of(state: dict[str, Tensor], wanted: dict[str, Any], module: nn.Module) -> dict[str, Tensor]:
    """Keep the file's floating dtype: a half-precision file makes the module half, as its maker had it."""
    tensors = (state[name] for name in wanted if name in state and not _is_extra(name))
    floating = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if len(floating) == 1:
        module.to(dtype=floating.pop())
    return state


def _without_prefix(state: dict[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    """Strip what DataParallel, torch.compile and Lightning put before every name, where the network has it not."""
    while True:
        prefix = next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None or any(name in wanted for name in state):
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
