"""A run on tape: the graph that torch.export gives, or none; and sizes that can have no part in the path."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnfold
from bnfold.adapters.torch_capture import Arguments, CaptureError, arguments, capture
from bnfold.adapters.torch_captured import of_program
from bnfold.adapters.torch_limits import limited
from bnfold.adapters.torch_lowering import ONE_OPERATOR, kind_of, lowered
from bnfold.adapters.torch_module import read_at
from bnfold.adapters.torch_names import stack_of
from bnfold.adapters.torch_origins import Origins
from bnfold.adapters.torch_reading import Reading, read_captured
from bnfold.adapters.torch_replay import Replay
from bnfold.adapters.torch_sizes import same_at_other_sizes
from bnfold.adapters.torch_tape import Tape, Taping
from bnfold.adapters.torch_trace import trace
from bnfold.adapters.torch_walk import confirmed, read_walk
from bnfold.errors import BnfoldError, DifferentError
from tests.adapters.torch_networks import conv_bn, image, randomised
from tests.random_modules_torch import grown


class Net(nn.Module):
    """A convolution, a BatchNorm, and what a test does with them."""

    def __init__(self, run: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.run = run
        self.offset = torch.randn(4, 1, 1)
        self.register_buffer("factor", torch.rand(4, 1, 1) + 0.5)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Any:
        return self.run(self, x, *others, **named)


def net(run: Callable[..., Any], **parts: nn.Module) -> Net:
    torch.manual_seed(0)
    return randomised(Net(run, **parts))


def tape_of(module: nn.Module, given: Arguments) -> Tape:
    walk = confirmed(module, given)
    assert walk is not None
    assert walk.tape is not None
    return walk.tape


def facts(reading: Reading, module: nn.Module) -> dict[str, Any]:
    """All that a fold looks at, but for the memory of a dropout, which torch.export takes for a copy."""
    writable = limited(reading, module)
    calls: dict[str, int] = {}
    return {
        "graph": str(reading.graph),
        "inputs": reading.graph.inputs,
        "outputs": reading.graph.outputs,
        "values": {name: (value.shape, value.dtype) for name, value in reading.graph.values.items()},
        "constants": {name: (item.shape, item.dtype) for name, item in reading.graph.constants.items()},
        "tensors": {name: id(item) for name, item in reading.tensors.items()},
        "chained": reading.chained,
        "limits": [(node.name, dict(node.limits), node.unit) for node in writable.graph.nodes],
        "replacements": writable.replacements,
        "modules": {name: stack_of(source) for name, source in reading.sources.items()},
        "calls": [
            [calls.setdefault(key, len(calls)) for key in source.meta["nn_module_stack"]]
            for source in reading.sources.values()
        ],
    }


def of_tape(module: nn.Module, given: Arguments) -> Reading | None:
    return read_walk(confirmed(module, given), module, given)


def assert_as_exported(module: nn.Module, given: Arguments) -> None:
    reading = of_tape(module, given)
    assert reading is not None
    exported = read_captured(of_program(capture(module, given)), module)
    assert facts(reading, module) == facts(exported, module)


# The same graph.


def functional(self: Net, x: Tensor) -> Tensor:
    y = F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)
    return F.batch_norm(y, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)


def in_place(self: Net, x: Tensor) -> Tensor:
    y = self.conv(x)
    z = self.norm(y)
    z += y
    return z.relu_().add_(y, alpha=0.5)


def attention(self: Net, x: Tensor) -> Any:
    y = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
    return self.attention(y, y, y)


def scaled(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x)) * self.factor + self.offset
    return F.interpolate(y, scale_factor=2) * self.norm.weight.shape[0]


def several(self: Net, x: Tensor, others: Any, *, named: Tensor, input: Tensor) -> Any:  # noqa: A002
    y = self.norm(self.conv(x))
    return {"a": y + others["left"], "b": [y * named, others["right"][0] - input], "c": None, "d": 3}


def twice(self: Net, x: Tensor) -> Tensor:
    return self.norm(self.conv(self.back(self.norm(self.conv(x)))))


def repeated(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x))
    return y.reshape(y.shape[0], 2, -1).sum(2, keepdim=True).expand(-1, -1, y.size(2)) @ y.mean(1)


def cut(self: Net, x: Tensor) -> Tensor:
    a, b = self.norm(self.conv(x)).chunk(2, 1)
    values, indices = torch.cat([b, a], 1)[..., 1:, :-1].max(1)
    return values + indices


def alike(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x))
    z = y * -0.0
    return torch.cat([y, z, y], 1) + torch.cat([y, z, z], 1) + torch.cat([y * 0.0, y + y, y + z], 1)


def made(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x))
    return y + torch.linspace(0, 1, y.shape[-1]) + torch.ones(4, 1, 1).to(torch.float64).float()


SAME = [
    pytest.param(net(run, **parts), (image(),), id=run.__name__)
    for run, parts in [
        (functional, {}),
        (in_place, {}),
        (attention, {"attention": nn.MultiheadAttention(4, 2, batch_first=True)}),
        (scaled, {}),
        (twice, {"back": nn.ConvTranspose2d(4, 3, 3)}),
        (repeated, {}),
        (cut, {}),
        (alike, {}),
        (made, {}),
    ]
]


@pytest.mark.parametrize(("module", "inputs"), SAME)
def test_the_graph_is_the_one_that_an_export_gives(module: nn.Module, inputs: Any) -> None:
    assert_as_exported(module, arguments(inputs))


def test_inputs_inside_of_others_have_the_names_that_an_export_gives() -> None:
    like = torch.randn(4, 2, 4, 6, 6)
    others = {"left": like[0], "right": [like[1]]}
    module = net(several)
    module.forward = lambda x, others, *, named, input: several(  # type: ignore[method-assign] # noqa: A006
        module, x, others, named=named, input=input
    )
    assert_as_exported(module, arguments((image(), others), {"named": like[2], "input": like[3]}))


def test_random_modules_have_the_graph_that_an_export_gives() -> None:
    same = 0
    for seed in range(25):
        module, x = grown(seed)
        if not any(isinstance(part, nn.Dropout) for part in module.modules()):
            assert_as_exported(module, arguments(x))
            same += 1
    assert same > 20


def test_hooks_and_tied_weights_are_told_as_an_export_tells_them() -> None:
    module = randomised(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)))
    module[2].weight = module[0].weight
    module[1].register_forward_hook(lambda part, args, output: output * 2)
    module[3].register_forward_pre_hook(lambda part, args: (args[0] + 1,))
    assert_as_exported(module, arguments(image()))


def test_parametrizations_are_told_as_an_export_tells_them() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert_as_exported(randomised(nn.Sequential(layer, nn.BatchNorm2d(4))), arguments(image()))


def test_an_idle_dropout_gives_the_tensor_that_it_was_given() -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        z = F.dropout(y, 0.5, self.training)
        return y + z.relu_()

    module = net(run)
    result = bnfold.fold(module, image())
    with torch.no_grad():
        torch.testing.assert_close(result.model(image()), module(image()), rtol=1e-4, atol=1e-5)


# Functions that are one operator.


def layers(function: Any) -> list[tuple[Any, ...]]:
    """Arguments for a function, at two sizes."""
    name = getattr(function, "__name__", "")
    if name.startswith("conv"):
        rank = int(name.rstrip("d")[-1])
        sizes = (([6] * rank, [3] * rank), ([9] * rank, [1] * rank))
        return [(torch.randn(2, 3, *n), torch.randn(3, 3, *k), torch.randn(3)) for n, k in sizes]
    if name == "linear":
        return [(torch.randn(2, n), torch.randn(4, n), torch.randn(4)) for n in (3, 5)]
    if name == "batch_norm":
        return [(torch.randn(n, n, 4), *torch.rand(2, n), *torch.rand(2, n)) for n in (1, 5)]
    if name == "layer_norm":
        return [(torch.randn(n, 3), (3,), torch.rand(3)) for n in (1, 4)]
    two = name.rstrip("_") in ("add", "sub", "mul", "div")
    return [(torch.randn(n, 4), torch.randn(m, 4)) if two else (torch.randn(n, 4),) for n, m in ((3, 3), (5, 1))]


@pytest.mark.parametrize("function", sorted(ONE_OPERATOR, key=str), ids=lambda function: function.__name__)
def test_a_function_is_one_operator_whatever_the_lengths_are(function: Any) -> None:
    found = []
    for args in layers(function):
        module = net(lambda self, *args: function(*args))
        (call,) = tape_of(module, arguments(args)).calls
        (form,) = (lowered([call]) or {}).values()
        (node,) = form.nodes
        operands = {operand: place for place, operand in enumerate(form.operands)}
        constants = torch.fx.map_arg((node.args, node.kwargs), lambda item, places=operands: f"operand {places[item]}")
        found.append((node.target, constants, len(form.results), kind_of(call)))
    assert found[0] == found[1]


# Where only an export can tell.


def asking(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x))
    return y if y.sum() > 1e9 else y * 2


def noting(self: Net, x: Tensor) -> Tensor:
    self.seen = self.conv(x)
    return self.norm(self.seen)


def counting(self: Net, x: Tensor) -> Tensor:
    self.factor.add_(1)
    return self.norm(self.conv(x)) * self.factor


def borrowing(self: Net, x: Tensor) -> Tensor:
    self.factor.mul_(2)
    y = self.norm(self.conv(x)) * self.factor
    self.factor.div_(2)
    return y


def unseen(self: Net, x: Tensor) -> Tensor:
    y = self.conv(x)
    with torch._C.DisableTorchFunction():
        y.mul_(2)
    return self.norm(y)


def counting_on_the_sly(self: Net, x: Tensor) -> Tensor:
    self.factor.data.add_(1)
    return self.norm(self.conv(x))


def of_a_number(self: Net, x: Tensor) -> Tensor:
    return self.norm(self.conv(x)) * self.factor[0, 0, 0].item()


def of_numbers(self: Net, x: Tensor) -> Tensor:
    return self.norm(self.conv(x)) * torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1)


def with_gradients(self: Net, x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = self.conv(x)
    return self.norm(y)


def in_less_precision(self: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = self.conv(x)
    return self.norm(y.float())


def for_compilers(self: Net, x: Tensor) -> Tensor:
    y = self.norm(self.conv(x))
    return y * 2 if torch.compiler.is_compiling() else y


_FROM_ELSEWHERE = torch.rand(4, 1, 1)


def from_elsewhere(self: Net, x: Tensor) -> Tensor:
    return self.norm(self.conv(x)) * _FROM_ELSEWHERE


def through_numpy(self: Net, x: Tensor) -> Tensor:
    y = self.conv(x)
    y.numpy()[...] *= 2
    return self.norm(y)


def mapped(self: Net, x: Tensor) -> Tensor:
    return torch.vmap(lambda item: self.norm(self.conv(item[None])))(x)[:, 0]


ALONE = [asking, noting, counting, counting_on_the_sly, of_a_number, of_numbers, with_gradients, in_less_precision]
ALONE += [for_compilers, from_elsewhere, through_numpy, mapped, borrowing, unseen]


@pytest.mark.parametrize("run", ALONE, ids=lambda run: run.__name__)
def test_a_tape_tells_nothing_that_it_does_not_know(run: Callable[..., Any]) -> None:
    module = net(run)
    before = copy.deepcopy(module.state_dict())
    assert of_tape(module, arguments(image())) is None
    assert all(torch.equal(item, before[name]) for name, item in module.state_dict().items())


def test_a_module_that_hangs_in_the_tree_twice_is_exported() -> None:
    conv = nn.Conv2d(3, 3, 1)
    module = randomised(nn.Sequential(conv, nn.BatchNorm2d(3), conv))
    assert of_tape(module, arguments(image())) is None
    assert read_at(module, arguments(image())).graph.nodes


def test_what_a_script_writes_unseen_is_not_missed() -> None:
    with pytest.warns(DeprecationWarning, match="deprecated"):

        @torch.jit.script
        def double(x: Tensor) -> Tensor:
            return x.mul_(2)

    def run(self: Net, x: Tensor) -> Tensor:
        y = self.conv(x)
        double(y)
        return self.norm(y)

    assert of_tape(net(run), arguments(image())) is None


def test_a_run_holds_nothing_that_it_computes() -> None:
    made: list[weakref.ref[Tensor]] = []

    def run(self: Net, x: Tensor) -> Tensor:
        for _ in range(3):
            alive = [item for item in made if item() is not None]
            assert len(alive) <= 1
            x = x * 2
            made.append(weakref.ref(x))
        return x.sum()

    module = net(run)
    Taping(module).run(module, arguments(image()))


def test_an_id_that_is_used_again_is_another_tensor() -> None:
    origins = Origins()
    tensor = torch.ones(1)
    first = origins.add(tensor, "first", ())
    assert origins.of(tensor) is first
    used = id(tensor)
    del tensor
    others = [torch.ones(1) for _ in range(100)]
    again = [item for item in others if id(item) == used]
    assert again
    assert origins.of(again[0]) is None


def test_a_run_that_fails_leaves_modules_as_they_were() -> None:
    plain = nn.Module.__call__
    with pytest.raises(CaptureError, match="doesn't take these inputs"):
        confirmed(conv_bn().eval(), arguments(torch.randn(2, 5, 8, 8)))
    assert nn.Module.__call__ is plain
    assert not torch.compiler.is_compiling()


# Sizes.


def blind(module: nn.Module, x: Tensor | None = None) -> bool:
    walk = confirmed(module, arguments(image() if x is None else x))
    return walk is not None and walk.blind


LOOKS = [
    lambda x: x.shape,
    lambda x: x.size(2),
    len,
    lambda x: x.numel(),
    lambda x: [*x],
    lambda x: x.is_contiguous(),
    lambda x: x.stride(),
    lambda x: x.nbytes,
    lambda x: x.flatten(1).shape[1],
]


@pytest.mark.parametrize("look", LOOKS)
def test_who_looks_at_a_length_is_not_blind(look: Callable[[Tensor], Any]) -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        look(y)
        return y

    assert not blind(net(run))


def test_kinds_and_the_lengths_of_weights_tell_nothing_of_the_size() -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "an image")
        y = self.norm(self.conv(x.to(self.conv.weight.dtype)))
        return y / self.conv.weight.shape[0] if y.is_floating_point() else y

    assert blind(net(run))


def test_a_hook_can_look_as_well() -> None:
    module = randomised(conv_bn())
    assert blind(module)
    module[1].register_forward_hook(lambda part, args, output: output * len(output))
    assert not blind(module)


def test_a_replay_takes_the_sizes_that_a_trace_takes() -> None:
    taken, refused = 0, 0
    for seed in range(60):
        module, x = grown(seed)
        given = arguments(x)
        walk = confirmed(module, given)
        if walk is None or walk.tape is None or not walk.blind:
            continue
        replay = Replay(walk.tape)
        for other in (given.resized(None, 1), given.resized(None, 7), given.resized(dict.fromkeys((2, 3), 3))):
            steps = trace(module, other)
            assert replay.takes(other) == (steps is not None)
            assert steps is None or steps == walk.steps
            taken, refused = taken + (steps is not None), refused + (steps is None)
    assert taken > 50
    assert refused > 1


def test_an_error_that_a_forward_expects_is_another_path() -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        try:
            return y + torch.ones(1, 1, 6, 6)
        except RuntimeError:
            return y * 2

    module = net(run)
    given = arguments(image())
    assert blind(module)
    with pytest.raises(CaptureError, match="another path"):
        same_at_other_sizes(module, given, lambda other: read_at(module, other))


def test_parts_that_a_forward_walks_through_are_counted() -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        for part in y.split(3, 2):
            y = y + part.sum()
        return y

    with pytest.raises(CaptureError, match="another path"):
        same_at_other_sizes(net(run), arguments(image()), lambda other: read_at(net(run), other))


@pytest.mark.parametrize("large", [False, True])
def test_a_written_module_that_begins_to_look_at_lengths_is_followed_at_all_sizes(large: bool) -> None:
    width = 40_000 if large else 4

    class Noticing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, width, 3, bias=False), nn.BatchNorm2d(width)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x))
            return y * 2 if isinstance(self.norm, nn.Identity) and x.shape[0] == 3 else y

    module = randomised(Noticing())
    x = torch.randn(2, 3, 4, 4)
    assert blind(module, x)
    with pytest.raises(DifferentError, match="another path"):
        bnfold.fold(module, x)
    assert isinstance(module.norm, nn.BatchNorm2d)


def test_what_only_a_compiler_would_see_of_a_written_module_is_seen() -> None:
    def run(self: Net, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y * 2 if torch.compiler.is_compiling() and isinstance(self.norm, nn.Identity) else y

    with pytest.raises(BnfoldError, match="another path"):
        bnfold.fold(net(run), image())
