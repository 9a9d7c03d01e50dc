"""Random modules as people write them: layers, functions, operators, in-place updates, shared layers, odd layouts.

A module is grown by running it: each move puts a few calls on a tensor that is there. What it runs is a list of lines
of text with names in place of tensors, so that the module can be copied like any other.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST = 4000  # elements of a tensor
IMAGE, SEQUENCE, ROWS = (2, 3, 6, 5), (2, 4, 7), (4, 6)
Move = Callable[["Growth", str], None]


class Normalise(nn.Module):
    """A hand-written BatchNorm: (x - mean) / sqrt(var + eps) * gamma + beta."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        shape = (1, channels, *[1] * (rank - 2))
        self.gamma = nn.Parameter(torch.randn(shape))
        self.beta = nn.Parameter(torch.randn(shape))
        self.register_buffer("mean", torch.randn(shape))
        self.register_buffer("var", torch.rand(shape) + 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / torch.sqrt(self.var + 1e-5) * self.gamma + self.beta


class Scale(nn.Module):
    """LayerScale, and what normalises an input: one number a channel."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(channels, *[1] * (rank - 2)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Network(nn.Module):
    """Runs its lines one by one. inplace: where ReLU and additions write to their operand."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, str]] = []
        self.results: tuple[str, ...] = ()
        self.named = False

    def forward(self, x: Tensor) -> Any:
        tensors: dict[str, Any] = {"self": self, "F": F, "torch": torch, "x": x}
        for name, code in self.lines:
            tensors[name] = eval(code, tensors)
        if self.named:
            return {name: tensors[name] for name in self.results}
        return tuple(tensors[name] for name in self.results) if len(self.results) > 1 else tensors[self.results[0]]

    def __str__(self) -> str:
        body = "\n".join(f"{name} = {code}" for name, code in self.lines)
        return f"{nn.Module.__str__(self)}\n{body}\nreturn {', '.join(self.results)}"


class Growth:
    """A network under construction, and what each name stands for on one input."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        torch.manual_seed(seed)
        self.network = Network().eval()
        self.example = torch.randn(self.random.choice([IMAGE, IMAGE, SEQUENCE, ROWS]))
        self.tensors: dict[str, Any] = {"self": self.network, "F": F, "torch": torch, "x": self.example}
        self.live = ["x"]
        self.layers: list[str] = []

    def pick(self) -> str:
        """Give one of the latest tensors, seldom an old one."""
        return self.random.choice(self.live if self.random.random() < 0.15 else self.live[-3:])

    def like(self, x: str) -> list[str]:
        """The tensors of the shape of `x`."""
        return [name for name in self.live if self.tensors[name].shape == self.tensors[x].shape]

    def layer(self, module: nn.Module) -> str:
        name = f"{type(module).__name__.lower()}{len(self.layers)}"
        setattr(self.network, name, module.eval())
        self.layers.append(name)
        return f"self.{name}"

    def parameter(self, tensor: Tensor) -> str:
        name = f"parameter{len(list(self.network.parameters()))}"
        setattr(self.network, name, nn.Parameter(tensor))
        return f"self.{name}"

    def put(self, code: str) -> str:
        """Add a line, unless it doesn't run or gives too much; give the name of its result, or of the last one."""
        name = f"t{len(self.network.lines)}"
        try:
            with torch.no_grad():
                result = eval(code, dict(self.tensors))
        except (RuntimeError, ValueError, IndexError, UserWarning):
            return self.live[-1]
        if isinstance(result, Tensor) and not 0 < result.numel() <= LARGEST:
            return self.live[-1]
        self.tensors[name] = result
        self.network.lines.append((name, code))
        if isinstance(result, Tensor) and name not in self.live:
            self.live.append(name)
        return name

    def forget(self, *names: str) -> None:
        """Let nobody read a tensor any more, as after it was written to."""
        self.live = [name for name in self.live if name not in names] or self.live[-1:]


def grown(seed: int, chances: Mapping[Move, int] | None = None) -> tuple[Network, Tensor]:
    """Give a network in eval mode, with random statistics, and an example of its input. chances: MOVES by default."""
    growth = Growth(seed)
    chances = MOVES if chances is None else chances
    for _ in range(growth.random.randint(3, 14)):
        growth.random.choices(list(chances), weights=list(chances.values()))[0](growth, growth.pick())
    later = growth.live[1:] or growth.live
    count = growth.random.choice([1, 1, 2, 3])
    growth.network.results = tuple(dict.fromkeys((later[-1], *growth.random.choices(later, k=count - 1))))
    growth.network.named = growth.random.random() < 0.15
    return growth.network, growth.example


def _dims(growth: Growth, x: str) -> tuple[int, int, int]:
    """The rank, the channels and the spatial axes of a tensor."""
    shape = growth.tensors[x].shape
    return len(shape), shape[1] if len(shape) > 1 else 0, max(len(shape) - 2, 0)


def _linear(growth: Growth, x: str) -> None:
    rank, channels, spatial = _dims(growth, x)
    choose = growth.random.choice
    if spatial == 0 and rank == 2:
        growth.put(f"{growth.layer(nn.Linear(channels, choose([3, 4, 6]), bias=choose([True, False])))}({x})")
    if spatial not in (1, 2):
        return
    kind = choose(["conv", "conv", "conv", "transposed", "last axis"])
    groups = choose([1, 1, channels, 2])
    groups = groups if channels % groups == 0 else 1
    out = groups * choose([1, 2])
    out = out if out > 1 else choose([3, 4])
    out = -(-out // groups) * groups
    kernel, bias = choose([1, 3]), choose([True, False])
    if kind == "conv":
        mode = choose(["zeros", "zeros", "reflect", "circular", "replicate"])
        made = (nn.Conv1d, nn.Conv2d)[spatial - 1](
            channels, out, kernel, choose([1, 1, 2]), choose([0, kernel // 2]), choose([1, 1, 2]), groups, bias, mode
        )
        growth.put(f"{growth.layer(made)}({x})")
    elif kind == "transposed":
        stride = choose([1, 2])
        made = (nn.ConvTranspose1d, nn.ConvTranspose2d)[spatial - 1](
            channels, out, kernel, stride, kernel // 2, choose([0, stride - 1]), groups, bias
        )
        growth.put(f"{growth.layer(made)}({x})")
    else:
        growth.put(f"{growth.layer(nn.Linear(growth.tensors[x].shape[-1], choose([3, 4])))}({x})")


def _again(growth: Growth, x: str) -> None:
    """Call a layer that is there already."""
    layers = [name for name in growth.layers if not name.startswith("bilinear")]  # which takes two tensors
    if layers:
        growth.put(f"self.{growth.random.choice(layers)}({x})")


def _norm(growth: Growth, x: str) -> None:
    rank, channels, spatial = _dims(growth, x)
    choose = growth.random.choice
    if rank < 2 or channels < 1 or spatial > 2:
        return
    options = {"eps": choose([1e-5, 1e-3, 0.5]), "affine": choose([True, True, True, False])}
    norms = {0: [nn.BatchNorm1d], 1: [nn.BatchNorm1d, nn.InstanceNorm1d], 2: [nn.BatchNorm2d, nn.InstanceNorm2d]}
    made = choose([norms[spatial][0], *norms[spatial]])(channels, track_running_stats=True, **options)
    zeros = choose([0.0, 0.0, 0.2])
    with torch.no_grad():
        made.running_mean.normal_()
        made.running_var.uniform_(0.3, 2)
        if made.affine:
            positive = choose([True, False])
            gamma = torch.empty(channels).uniform_(0.4, 1.6) * (1 if positive else torch.randn(channels).sign())
            made.weight.copy_(torch.where(torch.rand(channels) < zeros, torch.zeros(()), gamma))
            made.bias.normal_()
    layer = growth.layer(made)
    if choose([True, True, True, False]) or not made.affine or "Instance" in type(made).__name__:
        growth.put(f"{layer}({x})")
    else:
        parts = ", ".join(f"{layer}.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
        growth.put(f"F.batch_norm({x}, {parts}, False, 0.1, {options['eps']})")


def _arithmetic(growth: Growth, x: str) -> None:
    rank, channels, _ = _dims(growth, x)
    if rank < 2:
        return
    made = growth.random.choice([Normalise, Scale])(channels, rank)
    number = growth.random.choice(["* 0.5", "+ 1.5", "- 0.5", "/ -2", "* -1"])
    growth.put(growth.random.choice([f"{growth.layer(made)}({x})", f"{x} {number}", f"-{x}", f"2 - {x}"]))


def _activation(growth: Growth, x: str) -> None:
    _, channels, _ = _dims(growth, x)
    choose = growth.random.choice
    inplace = choose([False, True]) and x != "x"
    modules = [nn.ReLU(inplace), nn.ReLU(inplace), nn.LeakyReLU(0.2, inplace), nn.ReLU6(inplace), nn.SiLU(inplace)]
    modules += [nn.PReLU(choose([1, max(channels, 1)])), nn.Hardtanh(-0.5, 2.0), nn.Sigmoid(), nn.ELU(), nn.GELU()]
    code = choose([f"F.relu({x})", f"torch.relu({x})", f"{x}.clamp(min=0)", f"{x}.abs()", f"{x}.clamp(-1, 2)", ""])
    if code:
        growth.put(code)
        return
    made = choose(modules)
    writes = getattr(made, "inplace", False)
    before = growth.live[-1]
    if growth.put(f"{growth.layer(made)}({x})") != before and writes:
        growth.forget(x)


def _pool(growth: Growth, x: str) -> None:
    *_, spatial = _dims(growth, x)
    if spatial not in (1, 2):
        return
    choose, d = growth.random.choice, spatial
    kernel, stride, padding = choose([2, 3]), choose([1, 2]), choose([0, 1])
    ceil, count = choose([True, False]), choose([True, False])
    codes = [
        f"F.max_pool{d}d({x}, {kernel}, {stride}, {padding}, ceil_mode={ceil})",
        f"F.avg_pool{d}d({x}, {kernel}, {stride}, {padding}, ceil_mode={ceil}, count_include_pad={count})",
        f"F.adaptive_avg_pool{d}d({x}, {choose([1, 2])})",
        f"F.adaptive_max_pool{d}d({x}, {choose([1, 2])})",
        f"F.pad({x}, (1, {choose([0, 2])}), mode='{choose(['reflect', 'replicate', 'circular'])}')",
        f"F.pad({x}, ({choose([1, -1])}, 1), value={choose([0.0, 0.5])})",
        f"F.interpolate({x}, scale_factor=2, mode='{choose(['nearest', ('linear', 'bilinear')[d - 1]])}')",
        f"F.interpolate({x}, scale_factor=1.1, mode='nearest')",
        f"F.dropout({x}, 0.5, self.training)",
        f"{x}.mean(-1, keepdim=True)",
        f"{x}.amax(2, keepdim=True)",
        f"{x}.sum(-1, keepdim=True)",
    ]
    growth.put(choose(codes))


def _layout(growth: Growth, x: str) -> None:
    rank, channels, spatial = _dims(growth, x)
    choose = growth.random.choice
    if rank < 2:
        return
    codes = [f"{x}[:, 1:]", f"{x}[:, ::2]", f"{x}.flip(1)", f"{x}.roll(1, 1)", f"{x}.flatten(1)", f"{x}.contiguous()"]
    codes += [f"{x}.view({x}.shape[0], -1)", f"{x}.reshape({x}.size(0), {channels}, -1)", f"{x}[:, :1]", f"{x}.clone()"]
    codes += [f"torch.chunk({x}, 2, 1)[{choose([0, 1])}]", f"{x}.unsqueeze(-1)", f"{x}.squeeze(-1)", f"{x}.type_as(x)"]
    codes += [
        f"{x}.flip(0, 1)",
        f"{x}.repeat_interleave(2, -1)",
        f"torch.stack([{x}, {x}], -1)",
        f"{x}.reshape_as({x})",
    ]
    if spatial:
        codes += [f"torch.cat({x}.unbind(1)[::-1], 1)", f"{x}.max(-1)[0]", f"{x}.mT", f"{x}.tile(2)"]
        codes += [f"{x}.transpose(1, 2)", f"{x}.movedim(1, -1)", f"{x}.transpose(-1, 1)"]
    if spatial == 2:
        codes += [f"{x}.permute(0, 2, 3, 1)", f"F.pixel_shuffle({x}, 2)", f"F.pixel_unshuffle({x}, 2)"]
        codes += [f"F.channel_shuffle({x}, 2)", f"{x}.to(memory_format=torch.channels_last)"]
        half = channels // 2
        codes += [f"{x}.view({x}.shape[0], 2, {half}, *{x}.shape[2:]).transpose(1, 2).flatten(1, 2)"]
    growth.put(choose(codes))


def _join(growth: Growth, x: str) -> None:
    choose = growth.random.choice
    y = choose(growth.like(x))
    z = growth.pick()
    codes = [f"{x} + {y}", f"{x} - {y}", f"torch.add({x}, {y}, alpha=-0.5)", f"{x} * {y}", f"torch.cat([{x}, {y}], 1)"]
    codes += [f"torch.cat([{x}, {z}], 1)", f"{x} + {z}", f"torch.cat([{y}, {x}], -1)", f"torch.maximum({x}, {y})"]
    growth.put(choose(codes))


def _position(growth: Growth, x: str) -> None:
    """A parameter that is added, multiplied or joined; now and then one that is used twice, or a table of rows."""
    choose = growth.random.choice
    shape = list(growth.tensors[x].shape)
    sizes = [1, *(choose([size, size, 1]) for size in shape[1:])]
    if choose([True, False, False]) and len(shape) > 1:
        table = growth.layer(nn.Embedding(5, shape[-1]))
        growth.put(f"{x} + {table}(({x}[..., 0] > 0).long() + {choose([0, 1, 3])})")
        return
    p = growth.parameter(torch.randn(sizes))
    codes = [f"{x} + {p}", f"{p} - {x}", f"{x} * {p}", f"torch.maximum({x}, {p})", f"({x} + {p}) * {p}"]
    joined = f"torch.cat([{p}.expand({x}.shape[0], {', '.join(['-1'] * (len(shape) - 1))}), {x}], -1)"
    growth.put(choose([*codes, joined]))


def _write(growth: Growth, x: str) -> None:
    """Update a tensor in place; what shows the same memory is read on, as in any program."""
    if x == "x":
        return
    y = growth.random.choice(growth.like(x))
    growth.put(growth.random.choice([f"{x}.add_({y})", f"{x}.mul_(0.5)", f"F.relu_({x})", f"{x}.clamp_(-1, 1)"]))


def _gate(growth: Growth, x: str) -> None:
    rank, channels, spatial = _dims(growth, x)
    if spatial:
        axes = tuple(range(2, rank))
        pooled = growth.put(f"{x}.mean({axes}, keepdim=True)")
        layer = growth.layer((nn.Conv1d, nn.Conv2d)[spatial - 1](channels, channels, 1)) if spatial < 3 else ""
        gate = growth.put(f"torch.sigmoid({layer}({pooled}))") if layer else pooled
        growth.put(f"{x} * {gate}")


def _block(growth: Growth, x: str) -> None:
    """A residual block: what folding is most used for."""
    _, channels, spatial = _dims(growth, x)
    if spatial != 2:
        return
    y = x
    for _ in range(growth.random.choice([1, 2])):
        made = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        y = growth.put(f"{growth.layer(made)}({y})")
        _norm(growth, y)
        y = growth.put(f"F.relu({growth.live[-1]})")
    growth.put(f"{y} + {x}")


def _recurrent(growth: Growth, x: str) -> None:
    """A recurrent layer over an axis of three, the features turned to the end, or a cell on rows."""
    rank, channels, _ = _dims(growth, x)
    choose = growth.random.choice
    hidden, bias = choose([2, 3]), choose([True, True, True, False])
    if rank == 2:
        cell = growth.layer(choose([nn.LSTMCell, nn.GRUCell, nn.RNNCell])(channels, hidden, bias))
        first = growth.put(f"{cell}({x})")
        if isinstance(growth.tensors[first], tuple):
            growth.put(f"{first}[0]")
    if rank != 3:
        return
    features = choose([channels, growth.tensors[x].shape[2]])
    turned = f"{x}.transpose(1, 2)" if features == channels else x
    options = {"bias": bias, "batch_first": choose([True, True, False]), "bidirectional": choose([True, False])}
    made = choose([nn.LSTM, nn.GRU, nn.RNN])(features, hidden, choose([1, 1, 2]), **options)
    growth.put(f"{growth.layer(made)}({turned})[{choose(['0', '0', '1'])}]")


def _bilinear(growth: Growth, x: str) -> None:
    y = growth.random.choice(growth.like(x))
    features = growth.tensors[x].shape[-1]
    made = nn.Bilinear(features, features, growth.random.choice([2, 3]), bias=growth.random.choice([True, False]))
    scaled = growth.put(f"{x} * {growth.parameter(torch.randn(features))}")
    growth.put(f"{growth.layer(made)}({scaled}, {y})")


MOVES: dict[Move, int] = {
    _linear: 8,
    _norm: 8,
    _activation: 5,
    _arithmetic: 2,
    _pool: 3,
    _layout: 3,
    _join: 3,
    _position: 1,
    _again: 2,
    _gate: 1,
    _block: 2,
    _write: 1,
}
LAYERS: dict[Move, int] = MOVES | {_recurrent: 6, _bilinear: 3}
