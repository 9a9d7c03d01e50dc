"""A PyTorch module as one side of a check: in float64 for the truth, eagerly in its own dtype as it is."""

import contextlib
import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor, nn

from bnfold.checking.ort import ProviderMissingError
from bnfold.checking.providers import Target
from bnfold.checking.result import NodeRecord
from bnfold.checking.subject import Array, Examples, Feed, InputSpec, Outputs
from bnfold.checking.tolerance import budget_for
from bnfold.checking.torch_coverage import Recorder
from bnfold.checking.torch_cuda import tf32
from bnfold.checking.torch_modes import Mode, as_written
from bnfold.checking.torch_noise import NoiseMode, nudge
from bnfold.checking.torch_outputs import flatten
from bnfold.errors import BnfoldError, UnverifiedError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


class UpcastMode(Mode):  # type: ignore[no-untyped-call]
    """Makes float64 of every float that code inside a forward asks for by name (`.float()`, `dtype=torch.float32`)."""

    def called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `func` with a float64 dtype in place of a narrower one."""
        wide = {"dtype": torch.float64} if kwargs.get("dtype") in _NARROW else {}
        return func(*args, **{**kwargs, **wide})


class ModuleSubject:
    """An nn.Module. It is copied where it can be, and never changed.

    `examples`: arrays that it takes, one an input, by the names of forward's parameters or in their order; the first
    axis is taken for the batch. `fixed`: the inputs, by
    place, that have one shape only.
    """

    named = False

    def __init__(
        self,
        module: nn.Module,
        label: str,
        examples: Examples = (),
        source_name: str = "",
        fixed: Collection[int] = (),
    ) -> None:
        self.label, self.source_name = label, source_name
        self.fixed = fixed
        self.assumptions: tuple[str, ...] = ()
        self.module = self._prepared(module)
        self.double = as_double(self.module)
        self.dtype = majority_dtype(self.module)
        self.inputs = self._specs(examples)
        self.recorder = Recorder()
        self._nudged: dict[int, nn.Module] = {}

    def _prepared(self, module: nn.Module) -> nn.Module:
        own = copy_module(module).cpu()
        if own.training and self.source_name:  # from a file: an exported program, which has no modes
            return own
        if own.training:
            self.assumptions = (f"{self.label} was in training mode; its eval mode is what was checked",)
            return own.eval()
        if any(child.training for child in own.modules()):
            self.assumptions = (f"parts of {self.label} are in training mode on purpose and were run so",)
        return own

    def _specs(self, examples: Examples) -> tuple[InputSpec, ...]:
        names = list(inspect.signature(self.module.forward).parameters)
        if isinstance(examples, Mapping):
            ordered = sorted(examples, key=names.index) if set(examples) <= set(names) else examples
            examples = [examples[name] for name in ordered]
        limits = [child.num_embeddings for child in self.module.modules() if isinstance(child, nn.Embedding)]
        return tuple(
            InputSpec(
                name=names[i] if i < len(names) else f"input_{i}",
                dtype=self.dtype if np.issubdtype(example.dtype, np.floating) else example.dtype.name,
                dims=("batch", *example.shape[1:]) if example.ndim and i not in self.fixed else example.shape,
                limit=min(limits, default=2),
            )
            for i, example in enumerate(np.asarray(array) for array in examples)
        )

    def adopt_inputs(self, specs: Sequence[InputSpec]) -> None:
        """Take the inputs of the other side, by position, where this one's are not known."""
        self.inputs = self.inputs or tuple(specs)

    def truth(self, feed: Feed) -> Outputs:
        """Run in float64."""
        with UpcastMode(), self.recorder.mode():
            return self._call(self.double, feed, torch.float64)

    def own(self, feed: Feed) -> Outputs:
        """Run eagerly on the CPU."""
        return self._call(self.module, feed, getattr(torch, self.dtype))

    def nudged(self, feed: Feed, times: int = 1) -> Outputs:
        """Run in float64 with every weight moved by `times` roundings of its dtype."""
        if times not in self._nudged:
            self._nudged[times] = _nudged(self.double, times * budget_for(self.dtype).unit)
        with UpcastMode():
            return self._call(self._nudged[times], feed, torch.float64)

    def perturbed(self, feed: Feed, seed: int) -> Outputs:
        """Run in float64 with every weight, input and result moved by one rounding of the model's dtype."""
        unit, generator = budget_for(self.dtype).unit, torch.Generator().manual_seed(seed)
        moved = tuple(nudge(tensor, unit, generator).numpy() for tensor in to_tensors(feed, torch.float64))
        with UpcastMode(), NoiseMode(unit, generator):
            return self._call(_nudged(self.double, unit, seed), moved, torch.float64)

    def input_scale(self, feed: Feed) -> float:
        """Tell what to multiply `feed` by so that the first BatchNorm sees the variance that it was trained on."""
        found: list[float] = []

        def look(norm: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            running = getattr(norm, "running_var", None)
            if isinstance(running, Tensor) and arguments and not found:
                found.append(variance_ratio(arguments[0], running))

        norms = [module for module in self.double.modules() if _reads_channels_first(module)]
        handles = [norm.register_forward_pre_hook(look) for norm in norms]
        try:
            self.truth(feed)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else 1.0

    def _call(self, module: nn.Module, feed: Feed, dtype: torch.dtype) -> Outputs:
        with torch.no_grad(), as_written(), _as_bnfold_error(self.label):
            return {name: to_array(value) for name, value in flatten(module(*to_tensors(feed, dtype))).items()}

    def open(self, target: Target, *, allow_fallback: bool) -> "ModuleRunner":
        """Run on torch's own device of that name: cpu or cuda."""
        if target.name not in ("cpu", "cuda"):
            raise UnverifiedError(f"a module runs on cpu or cuda, not on {target.provider}")
        if target.name == "cpu":
            return ModuleRunner(self, self.module, torch.device("cpu"), tf32=False)
        if not torch.cuda.is_available():
            raise ProviderMissingError("torch has no CUDA device here; `bnfold doctor` tells why")
        device = torch.device("cuda", int(target.option("device_id", "0")))
        if device.index >= (count := torch.cuda.device_count()):
            raise ProviderMissingError(f"torch has no CUDA device {device.index}; there are {count}")
        return ModuleRunner(self, copy_module(self.module).to(device), device, tf32=target.mode == "tf32")


def fixed_inputs(program: "ExportedProgram") -> frozenset[int]:
    """Tell which tensor inputs of a program, by place, have a first axis of one length only."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    given = [values.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    tensors = [item for item in given if isinstance(item, Tensor)]
    return frozenset(i for i, item in enumerate(tensors) if item.ndim and isinstance(item.shape[0], int))


def _reads_channels_first(module: nn.Module) -> bool:
    """Whether it is a BatchNorm whose input is what it normalises: a forward of its own may transpose first."""
    norm = nn.modules.batchnorm._BatchNorm
    return isinstance(module, norm) and type(module).forward in (norm.forward, nn.SyncBatchNorm.forward)


@dataclass(frozen=True)
class ModuleRunner:
    """A module on a torch device."""

    subject: ModuleSubject
    module: nn.Module
    device: torch.device
    tf32: bool
    proven: bool = True
    notes: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[NodeRecord, ...]:
        """The module as one node: eager torch runs everything where its tensors are."""
        return (NodeRecord(self.subject.label, type(self.module).__name__, self.device.type),)

    def run(self, feed: Feed) -> Outputs:
        """Run once, TF32 as asked for."""
        dtype = getattr(torch, self.subject.dtype)
        tensors = [tensor.to(self.device) for tensor in to_tensors(feed, dtype)]
        with torch.no_grad(), tf32(self.device, self.tf32), _as_bnfold_error(self.subject.label):
            return {name: to_array(value) for name, value in flatten(self.module(*tensors)).items()}


def copy_module(module: nn.Module) -> nn.Module:
    """Deep-copy, also a module that holds computed tensors (old-style weight_norm, spectral_norm, prune)."""
    computed: dict[int, Any] = {
        id(value): value.detach().clone()
        for child in module.modules()
        for value in vars(child).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about its own exported programs
            return copy.deepcopy(module, computed)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UnverifiedError(f"{type(module).__name__} can't be copied for its float64 truth: {error}") from error


def as_double(module: nn.Module) -> nn.Module:
    """Copy in float64, plain tensor attributes included."""
    double = copy_module(module).double()
    for child in double.modules():
        for name, value in vars(child).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                vars(child)[name] = value.double()
    return double


def _nudged(double: nn.Module, unit: float, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    other = copy_module(double)
    with torch.no_grad():
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.copy_(nudge(tensor, unit, generator))
    return other


def variance_ratio(x: Tensor, running_var: Tensor) -> float:
    """Give the median over channels (axis 1) of sqrt(running_var / the variance of x), within sane bounds."""
    seen = x.detach().double().var(tuple(axis for axis in range(x.ndim) if axis != 1), correction=0)
    usable = (seen > 0) & (running_var > 0)
    if not bool(usable.any()):
        return 1.0
    ratio = float((running_var.double()[usable] / seen[usable]).sqrt().median())
    return min(max(ratio, 1e-3), 1e3)


def majority_dtype(module: nn.Module) -> str:
    """Give the float dtype that holds most of the module's numbers; float32 where there are none."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            sizes[tensor.dtype] += tensor.numel()
    return str(sizes.most_common(1)[0][0]).removeprefix("torch.") if sizes else "float32"


def to_tensors(feed: Feed, dtype: torch.dtype) -> list[Tensor]:
    """Turn arrays into tensors, floats in `dtype`."""
    tensors = [torch.from_numpy(np.array(np.asarray(a, float) if _is_float(a) else a, order="C")) for a in feed]
    return [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]


def to_array(tensor: Tensor) -> Array:
    """Turn a tensor of any dtype into an array of the same."""
    tensor = tensor.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _is_float(array: Array) -> bool:
    return np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16


@contextlib.contextmanager
def _as_bnfold_error(label: str) -> Iterator[None]:
    try:
        yield
    except BnfoldError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UnverifiedError(f"{label} could not be run: {lines[0][:300]}") from error
