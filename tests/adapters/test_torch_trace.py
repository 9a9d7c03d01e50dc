"""Traces: what is remembered of functions changes no trace, and a module is the same behind one."""

import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnfold.adapters.torch_capture import arguments
from bnfold.adapters.torch_shapes import KnownShapes
from bnfold.adapters.torch_trace import recorded
from tests.random_modules_torch import grown


class Calls(nn.Module):
    def __init__(self, body: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> object:
        return self.body(x)


def twice_in_place(x: Tensor) -> Tensor:
    y = x + 1
    for _ in range(3):
        torch.relu_(y)
    return y + x


def several_views(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    c, d = x.chunk(2, 1)
    a += 1
    return torch.cat([a, d, b.flatten(1).view_as(b), c.reshape(b.shape)])


def lengths(x: Tensor) -> Tensor:
    return F.pad(x, [1, 1]) + F.pad(x, (2, 0)) + F.pad(x, [1, 1]).sum([3], keepdim=True) + x.sum(3, keepdim=True)


def kinds(x: Tensor) -> tuple[Tensor, ...]:
    return (x.to(torch.float64), x.to(torch.float32), x.double(), x.double() * 2, x * 2, x * 2.0, x * True, x.int() * 2)


BODIES = [twice_in_place, several_views, lengths, kinds, lambda x: (x.T, x.T, x.t(), [x, x.detach()], {"a": x.mT})]


def assert_alike(module: nn.Module, x: Tensor) -> None:
    """The steps, and the shape, stride, dtype and sharing of memory of what comes out."""
    leaves = torch.utils._pytree.tree_leaves
    given = arguments(x.to("meta"))
    module = module.to("meta")
    with torch.no_grad(), torch.device("meta"):
        plain, first = recorded(module, given)
        known, second = recorded(module, given, KnownShapes())
    assert plain == known
    outputs = [[item for item in leaves(result) if isinstance(item, Tensor)] for result in (first, second)]
    for one, other in zip(*outputs, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    memories = [[item.untyped_storage()._cdata for item in side] for side in outputs]
    first_places, second_places = ([side.index(memory) for memory in side] for side in memories)
    assert first_places == second_places


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_what_is_remembered_is_what_the_function_gives(body: Callable[[Tensor], object]) -> None:
    assert_alike(Calls(body), torch.randn(2, 4, 3, 5) if body is not BODIES[-1] else torch.randn(3, 5))


def test_random_modules_leave_the_same_trace() -> None:
    for seed in range(40):
        assert_alike(*grown(seed))


def test_the_second_of_two_layers_alike_is_not_asked() -> None:
    asked: list[str] = []

    class Asked(nn.ReLU):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.softplus(x) if x.device.type != "meta" else watched(x)

    def watched(x: Tensor) -> Tensor:
        if torch.overrides.has_torch_function_unary(x):
            return torch.overrides.handle_torch_function(watched, (x,), x)  # type: ignore[no-any-return]
        asked.append("once")
        return x + 1

    x = torch.randn(2, 3, device="meta")
    recorded(nn.Sequential(Asked(), Asked(), Asked()), arguments(x), KnownShapes())
    assert asked == ["once"]


def test_calls_of_other_threads_are_none_of_the_run() -> None:
    layer, started, ended = nn.ReLU(), threading.Event(), threading.Event()

    def meanwhile() -> None:
        started.wait(10)
        layer(torch.ones(2))
        ended.set()

    def body(x: Tensor) -> Tensor:
        started.set()
        assert ended.wait(10)
        return layer(x) * 2

    thread = threading.Thread(target=meanwhile)
    thread.start()
    steps, _ = recorded(nn.Sequential(Calls(body)), arguments(torch.ones(2)))
    thread.join()
    assert [(step.path, step.name) for step in steps] == [("", "relu"), ("0", "mul"), ("", "output")]
    assert nn.Module.__call__ is nn.Linear.__call__
