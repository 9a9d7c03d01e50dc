"""The last steps of an export: onnxsim, the file, and holding it to the model before it takes its name."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from bnfold.adapters.onnx_write import free_name
from bnfold.adapters.torch_capture import Arguments
from bnfold.adapters.torch_onnx_clean import with_properties
from bnfold.atomic import is_special, replacing
from bnfold.errors import BnfoldError, UnverifiedError

if TYPE_CHECKING:
    from bnfold.checking import CheckResult

_SIMPLIFY_LIMIT = 1 << 30  # onnxsim needs about eight times the model's size


def simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Run onnxsim. Raises BnfoldError where it fails, or would need too much memory."""
    import onnxsim

    if proto.ByteSize() > _SIMPLIFY_LIMIT:
        raise BnfoldError(f"--simplify: onnxsim takes too much memory for {proto.ByteSize():,} bytes; leave it out")
    try:
        simple, done = onnxsim.simplify(proto)
    except Exception as error:
        raise BnfoldError(f"--simplify: onnxsim failed ({type(error).__name__}: {error})") from error
    if not done:
        raise BnfoldError("--simplify: onnxsim's own check failed; leave it out")
    return with_properties(simple, {item.key: item.value for item in proto.metadata_props})


def verifier(
    model: Any, given: Arguments, providers: str | Sequence[str], name: str
) -> Callable[[Path], "CheckResult"]:
    """Give what holds a file, under its temporary name, to the model; the result calls it by its own."""

    def verified(file: Path) -> "CheckResult":
        from bnfold.checking import check

        if not given.tensors:
            raise UnverifiedError(f"{name}: takes no input, so there is nothing to tell models apart by")
        module = _with_tensors(model.module() if isinstance(model, ExportedProgram) else model, given)
        result = check(module, file, inputs=tuple(given.tensors), providers=providers)
        runs = tuple(replace(run, candidate=name) for run in result.runs)
        result = replace(result, candidates=(name,), runs=runs)
        result.raise_for_failure()
        return result

    return verified


class _WithTensors(nn.Module):
    """A module that is called with the tensors among its arguments alone, as an ONNX file is."""

    def __init__(self, module: nn.Module, given: Arguments) -> None:
        super().__init__()
        self.module = module
        leaves, self.spec = pytree.tree_flatten((given.args, dict(given.kwargs)))
        self.leaves = [Tensor if isinstance(item, Tensor) else item for item in leaves]

    def forward(self, *tensors: Tensor) -> Any:
        left = iter(tensors)
        leaves = [next(left) if item is Tensor else item for item in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.module(*args, **kwargs)


def _with_tensors(module: nn.Module, given: Arguments) -> nn.Module:
    if not given.kwargs and all(isinstance(item, Tensor) for item in given.args):
        return module
    kind = type(type(module).__name__, (_WithTensors,), {})  # reports call a module by its class
    wrapped: nn.Module = kind(module, given)
    wrapped.training = module.training  # a program's module has no train()
    return wrapped


def write(proto: onnx.ModelProto, path: Path, verified: Callable[[Path], Any] | None) -> Any:
    """Write beside `path`, check, rename. Weights of more than 2 GiB go to a file of their own, which comes first."""
    if proto.ByteSize() > onnx.checker.MAXIMUM_PROTOBUF:
        return _write_external(proto, path, verified)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        _require_valid(temporary)
        return None if verified is None else verified(temporary)


def _write_external(proto: onnx.ModelProto, path: Path, verified: Callable[[Path], Any] | None) -> Any:
    """The data takes a name that nothing has: a model that is there may need its own until it is replaced."""
    if is_special(path):
        raise BnfoldError(f"{path}: nothing can lie beside it; give the name of a file, for its external data")
    name = free_name(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        onnx.save_model(proto, draft, save_as_external_data=True, location=name)
        _require_valid(draft)
        result = None if verified is None else verified(draft)
        (Path(folder) / name).replace(path.parent / name)
        draft.replace(path)
    return result


def _require_valid(file: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise BnfoldError(f"torch.onnx.export failed: it made a model that is not valid ({line})") from error
