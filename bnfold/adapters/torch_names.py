"""What the tensors and nodes of an exported graph are called: by the paths of the modules behind them."""

import re
from collections import Counter
from collections.abc import Collection, Container, Mapping

import torch
from torch import fx, nn

_CALL = re.compile(r"@\d+$")  # the second call of a module has the path `conv@1`


def path_of(node: fx.Node) -> str:
    """Give the path of the innermost module whose forward made the node; empty for the outermost one."""
    return (stack_of(node) or ("",))[-1]


def stack_of(node: fx.Node) -> tuple[str, ...]:
    """Give the paths of the modules around a node, the outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(_CALL.sub("", str(path)) for path, _ in stack.values())


def call_of(node: fx.Node) -> str:
    """Tell one call of the innermost module from its other calls."""
    keys = list(node.meta.get("nn_module_stack") or {})
    return str(keys[-1]) if keys else ""


def value_name(name: str, weights: Container[str]) -> str:
    """Name what an fx node gives: as the node, but where a weight has that path (a buffer `mean`, and `x.mean()`)."""
    return f"{name}:value" if name in weights else name


class Names:
    """Unique names for nodes: a layer's path where the node is all that the layer does, else path and fx name."""

    def __init__(self, nodes: list[fx.Node]) -> None:
        self._alone = Counter(call_of(node) for node in nodes)
        self._taken: set[str] = set()

    def of(self, node: fx.Node) -> str:
        """Name a node. A layer's second call is `path@1`."""
        path = path_of(node)
        alone = path and self._alone[call_of(node)] == 1
        base = path if alone else ".".join(filter(None, (path, node.name)))
        name, count = base, 0
        while name in self._taken:
            count += 1
            name = f"{base}@{count}"
        self._taken.add(name)
        return name


class Paths:
    """Which of a tensor's paths in the module is meant, where weights are tied."""

    def __init__(self, module: nn.Module | None) -> None:
        self._aliases: dict[str, tuple[str, ...]] = {}
        self._modules: dict[str, str] = {}
        if module is None:
            return
        first: dict[int, str] = {}
        for path, part in module.named_modules(remove_duplicate=False):
            self._modules[path] = first.setdefault(id(part), path)
        by_tensor: dict[int, list[str]] = {}
        for path, tensor in _tensors(module).items():
            by_tensor.setdefault(id(tensor), []).append(path)
        for paths in by_tensor.values():
            self._aliases.update(dict.fromkeys(paths, tuple(paths)))

    def module(self, path: str) -> str:
        """Give the first path of the module at `path`: one module can hang in the tree twice."""
        return self._modules.get(path, path)

    def as_used_in(self, owner: str, path: str) -> str:
        """Give the alias of `path` that belongs to the module at `owner`, else `path` itself."""
        owner = self.module(owner)
        prefix = f"{owner}." if owner else ""
        own = [alias for alias in self._aliases.get(path, ()) if alias.rpartition(".")[0] == owner]
        deeper = [alias for alias in self._aliases.get(path, ()) if alias.startswith(prefix)]
        return (own or deeper or [path])[0]

    @property
    def of_tensors(self) -> Collection[str]:
        """Every path of a parameter or buffer."""
        return self._aliases.keys()

    def aliases(self, path: str) -> tuple[str, ...]:
        """Give every path of the same tensor."""
        return self._aliases.get(path, (path,))


def _tensors(module: nn.Module) -> Mapping[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
