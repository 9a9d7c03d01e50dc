"""The tools for PyTorch models. Each takes a module in eval mode and inputs, and gives something to call."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


def bnfold_module(module: nn.Module, inputs: Inputs) -> Any:
    """bnfold: the user's own class back."""
    from bnfold.adapters.torch_module import fold_module

    return fold_module(module, inputs).model


def bnfold_max(module: nn.Module, inputs: Inputs) -> Any:
    """bnfold, level max."""
    from bnfold.adapters.torch_module import fold_module

    return fold_module(module, inputs, level="max").model


def bnfold_program(module: nn.Module, inputs: Inputs) -> Any:
    """bnfold: a .pt2."""
    from bnfold.adapters.torch_program import fold_program

    return fold_program(torch.export.export(module, inputs)).model.module()


def fx_fuse(module: nn.Module, inputs: Inputs) -> Any:
    """torch.fx.experimental.optimization.fuse."""
    from torch.fx.experimental.optimization import fuse

    return fuse(module)


def ao_fuse(module: nn.Module, inputs: Inputs) -> Any:
    """torch.ao.quantization.fuse_fx."""
    from torch.ao.quantization.quantize_fx import fuse_fx

    return fuse_fx(module)


def torchao_pt2e(module: nn.Module, inputs: Inputs) -> Any:
    """torchao's prepare_pt2e and convert_pt2e, with a quantizer that asks for nothing."""
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import Quantizer

    class Nothing(Quantizer):
        def annotate(self, model: Any) -> Any:
            return model

        def validate(self, model: Any) -> None:
            return None

    return convert_pt2e(prepare_pt2e(torch.export.export(module, inputs).module(), Nothing()))


def jit_freeze(module: nn.Module, inputs: Inputs) -> Any:
    """torch.jit.trace, then freeze."""
    return torch.jit.freeze(torch.jit.trace(module, inputs))


def inductor(module: nn.Module, inputs: Inputs) -> Any:
    """Inductor's graph with freezing on, run operator by operator instead of compiled."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    graphs: list[Any] = []

    def operator_by_operator(graph: Any, *_: Any, **__: Any) -> Any:
        graphs.append(graph)
        return lambda arguments: graph(*arguments)

    def backend(graph: Any, examples: Any) -> Any:
        return compile_fx(graph, examples, inner_compile=operator_by_operator)

    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend)
    with config.patch(freezing=True), torch.no_grad():
        compiled(*inputs)
    return graphs[0] if len(graphs) == 1 else compiled


def aimet(module: nn.Module, inputs: Inputs) -> Any:
    """aimet_torch.batch_norm_fold.fold_all_batch_norms."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms

    fold_all_batch_norms(module, None, dummy_input=inputs)
    return module


def brevitas(module: nn.Module, inputs: Inputs) -> Any:
    """brevitas: preprocess_for_quantize, which merges BatchNorms."""
    from brevitas.graph.quantize import preprocess_for_quantize

    return preprocess_for_quantize(module)


Tool = Callable[[nn.Module, Inputs], Any]
TOOLS: dict[str, tuple[str, Tool]] = {
    "bnfold": ("bnfold", bnfold_module),
    "bnfold max": ("bnfold", bnfold_max),
    "bnfold .pt2": ("bnfold", bnfold_program),
    "fx fuse": ("torch", fx_fuse),
    "ao fuse_fx": ("torch", ao_fuse),
    "torchao pt2e": ("torchao", torchao_pt2e),
    "jit freeze": ("torch", jit_freeze),
    "Inductor freezing": ("torch", inductor),
    "AIMET": ("aimet-torch", aimet),
    "brevitas": ("brevitas", brevitas),
}


def version(tool: str) -> str:
    """Give the version of the package; ImportError where the tool can't be imported."""
    package = TOOLS[tool][0]
    __import__({"aimet-torch": "aimet_torch"}.get(package, package))
    if package == "bnfold":
        import bnfold

        return bnfold.__version__
    return importlib.metadata.version(package)
