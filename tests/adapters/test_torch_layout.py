"""Every layout operator of ATen that is read, between a convolution and an affine that goes through it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bnfold
from tests.adapters.torch_networks import image

Move = Callable[[Tensor], Tensor]
CHANNELS = 8

MOVES: dict[str, tuple[Move, int]] = {  # by name: what it does, and the axis that has the channels afterwards
    "reshape_as": (lambda x: x.flatten(2).reshape_as(x), 1),
    "reshape_as of tokens": (lambda x: x.permute(0, 2, 3, 1).flatten(0, 2).reshape_as(x.permute(0, 2, 3, 1)), 3),
    "atleast_3d": (lambda x: torch.atleast_3d(x[0, :, 0]), 0),
    "mT": (lambda x: x.flatten(2).mT, 2),
    "moveaxis": (lambda x: x.moveaxis(1, -1), 3),
    "movedim, several": (lambda x: x.movedim((1, 2), (3, 0)), 3),
    "movedim, out of order": (lambda x: x.movedim((2, 1, 0), (1, 3, 2)), 3),
    "flip, several": (lambda x: x.flip(1, 3), 1),
    "flip, negative": (lambda x: x.flip(-1), 1),
    "flipud": (lambda x: x[0].flipud(), 0),
    "fliplr": (lambda x: x.fliplr(), 1),
    "roll": (lambda x: x.roll(3, 1), 1),
    "index_select": (lambda x: x.index_select(1, torch.tensor([5, 0, 0, 7])), 1),
    "index": (lambda x: x[:, [3, -1, 2]], 1),
    "index of columns": (lambda x: x[..., torch.tensor([1, 0])], 1),
    "mask": (lambda x: x[:, torch.tensor([True, False] * 4)], 1),
    "repeat": (lambda x: x.repeat(1, 1, 2, 3), 1),
    "repeat of channels, to another rank": (lambda x: x.repeat(2, 1, 3, 1, 1), 2),
    "tile, fewer": (lambda x: x.tile(2, 1), 1),
    "repeat_interleave": (lambda x: x.repeat_interleave(3, 1), 1),
    "repeat_interleave of columns": (lambda x: x.repeat_interleave(2, -1), 1),
    "unbind": (lambda x: torch.cat(x.permute(2, 0, 1, 3).unflatten(0, (4, -1)).unbind(0), 2), 2),
    "chunk": (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), 1),
    "unsafe_chunk": (lambda x: torch.cat(x.unsafe_chunk(2, 1)[::-1], 1), 1),
    "unsafe_split": (lambda x: torch.cat(x.unsafe_split(3, 1)[::-1], 1), 1),
    "unsafe_split_with_sizes": (lambda x: x.unsafe_split_with_sizes([3, 5], 1)[1], 1),
    "tensor_split": (lambda x: x.tensor_split((2, 3), 1)[2], 1),
    "hsplit": (lambda x: x.hsplit(4)[1], 1),
    "hsplit at": (lambda x: x.hsplit((1, 3))[1], 1),
    "vsplit": (lambda x: x[0].vsplit(2)[1], 0),
    "dsplit": (lambda x: x.dsplit(2)[1], 1),
    "stack": (lambda x: torch.stack([x, x], 1), 2),
    "stack behind": (lambda x: torch.stack([x, x], -1), 1),
    "hstack": (lambda x: torch.hstack([x, x]), 1),
    "hstack of vectors": (lambda x: torch.hstack([x[0, :, 0, 0], x[0, :, 0, 0]]), 0),
    "vstack": (lambda x: torch.vstack([x, x]), 1),
    "dstack": (lambda x: torch.dstack([x, x]), 1),
    "maximum": (lambda x: torch.maximum(x, x.flip(2)), 1),
    "minimum": (lambda x: torch.min(x, x[:, :, :1]), 1),
    "lerp": (lambda x: torch.lerp(x, x.flip(2), 0.3), 1),
    "max": (lambda x: x.max(2)[0], 1),
    "min, kept": (lambda x: x.min(-1, keepdim=True).values, 1),
}


class Net(nn.Module):
    """A convolution, a move, and an affine whose constants the move takes from the channels before it."""

    def __init__(self, move: Move, axis: int, positive: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.conv = nn.Conv2d(3, CHANNELS, 1, dtype=torch.float64)
        self.move = move
        scale = torch.rand(CHANNELS, generator=generator, dtype=torch.float64) + 0.5
        signs = torch.tensor([1.0] * CHANNELS if positive else [-1.0, 1.0, 1.0, -1.0] * 2, dtype=torch.float64)
        shift = torch.randn(CHANNELS, generator=generator, dtype=torch.float64)
        self.register_buffer("scale", self._moved(scale * signs, axis))
        self.register_buffer("shift", self._moved(shift, axis))

    def _moved(self, vector: Tensor, axis: int) -> Tensor:
        moved = self.move(vector[:, None, None].expand(2, CHANNELS, 8, 8))
        return moved.amax([other for other in range(moved.ndim) if other != axis], keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.conv(x)) * self.scale + self.shift


@pytest.mark.parametrize("name", MOVES)
def test_an_affine_goes_through(name: str) -> None:
    move, axis = MOVES[name]
    module = Net(move, axis, positive=name.startswith(("max", "min"))).eval()
    x = image().double()
    program = torch.export.export(module, (x,))
    result = bnfold.fold(program)
    assert [len(result.plan.folded), len(result.plan.kept)] == [1, 0], result.plan.outcomes
    assert result.plan.edits
    with torch.no_grad():
        wanted, got = module(x), result.model.module()(x)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_channel_s_extremum_is_no_channel() -> None:
    program = torch.export.export(Net(lambda x: x.max(1)[0], 1, positive=True).eval(), (image().double(),))
    assert bnfold.fold(program).plan.folded == ()


def test_where_the_maximum_is_stays() -> None:
    class Where(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, CHANNELS, 1, dtype=torch.float64)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            values, places = F.relu(self.conv(x)).max(2)
            return values * 2 + 1, places

    module = Where().eval()
    x = image().double()
    program = torch.export.export(module, (x,))
    for wanted, got in zip(module(x), bnfold.fold(program, level="max").model.module()(x), strict=True):
        assert torch.allclose(got, wanted)
