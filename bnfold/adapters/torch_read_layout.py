"""Operators of ATen that move, cut or join tensors."""

import torch
from torch import fx

from bnfold import ops
from bnfold.adapters.torch_call import Call, Draft, is_tensor, length, reads, shape_of


@reads(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "view_as.default",
    "flatten.using_ints",
    "unflatten.int",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "unsqueeze.default",
)
def _reshape(call: Call) -> Draft:
    return Draft(ops.Reshape(), (call.x,))


@reads("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(call: Call) -> Draft:
    return Draft(ops.Expand(), (call.x,))


@reads("permute.default")
def _permute(call: Call) -> Draft:
    return Draft(ops.Transpose(tuple(axis % call.rank for axis in call["dims"])), (call.x,))


@reads("transpose.int", "swapaxes.default", "swapdims.default")
def _transpose(call: Call) -> Draft:
    first, second = list(call.arguments.values())[1:3]
    return _swapped(call, first, second)


@reads("t.default", "numpy_T.default", "mT.default")
def _t(call: Call) -> Draft | None:
    return _swapped(call, -2, -1) if call.rank == 2 else None


def _swapped(call: Call, first: int, second: int) -> Draft:
    order = list(range(call.rank))
    order[first], order[second] = order[second], order[first]
    return Draft(ops.Transpose(tuple(order)), (call.x,))


@reads("movedim.int")
def _movedim(call: Call) -> Draft:
    source, target = call["source"] % call.rank, call["destination"] % call.rank
    order = [axis for axis in range(call.rank) if axis != source]
    order.insert(target, source)
    return Draft(ops.Transpose(tuple(order)), (call.x,))


def _take(call: Call, axis: int, indices: range | list[int]) -> Draft:
    return Draft(ops.Take(axis, tuple(indices)), (call.x,))


@reads("slice.Tensor")
def _slice(call: Call) -> Draft:
    axis = call.axis("dim")
    bounds = [None if call[name] is None else length(call[name]) for name in ("start", "end", "step")]
    return _take(call, axis, range(length(shape_of(call.x)[axis]))[slice(*bounds)])


@reads("narrow.default")
def _narrow(call: Call) -> Draft:
    axis, start = call.axis("dim"), length(call["start"])
    if start < 0:
        start += length(shape_of(call.x)[axis])
    return _take(call, axis, range(start, start + length(call["length"])))


@reads("select.int")
def _select(call: Call) -> Draft:
    axis = call.axis("dim")
    index = length(call["index"])
    return Draft(ops.Select(axis, index if index >= 0 else index + length(shape_of(call.x)[axis])), (call.x,))


@reads("flip.default")
def _flip(call: Call) -> Draft | None:
    if len(call["dims"]) != 1:
        return None
    axis = call["dims"][0] % call.rank
    return _take(call, axis, range(length(shape_of(call.x)[axis]))[::-1])


@reads("roll.default")
def _roll(call: Call) -> Draft | None:
    if len(call["shifts"]) != 1 or len(call["dims"]) != 1:
        return None
    axis = call["dims"][0] % call.rank
    count, shift = length(shape_of(call.x)[axis]), length(call["shifts"][0])
    return _take(call, axis, [(index - shift) % count for index in range(count)])


@reads("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(call: Call) -> Draft:
    """Channel g * n + k goes to k * groups + g, for n channels a group."""
    groups = call["groups"]
    each = length(shape_of(call.x)[1]) // groups
    return _take(call, 1, [g * each + k for k in range(each) for g in range(groups)])


@reads("pixel_shuffle.default")
def _pixel_shuffle(call: Call) -> Draft | None:
    return Draft(ops.DepthToSpace(call["upscale_factor"], "CRD"), (call.x,)) if call.rank == 4 else None


@reads("pixel_unshuffle.default")
def _pixel_unshuffle(call: Call) -> Draft | None:
    return Draft(ops.SpaceToDepth(call["downscale_factor"], "CRD"), (call.x,)) if call.rank == 4 else None


@reads("chunk.default", "split.Tensor", "split.sizes", "split_with_sizes.default", "tensor_split.sections")
def _split(call: Call) -> Draft:
    """The sizes stand in what the capture saw."""
    axis = call.axis("dim")
    return Draft(ops.Split(axis, tuple(length(part.shape[axis]) for part in parts(call.node))), (call.x,))


def parts(node: fx.Node) -> list[torch.Tensor]:
    """The tensors that a node with several outputs gives, as the capture saw them."""
    return list(node.meta["val"])


@reads("cat.default", "concat.default", "concatenate.default")
def _cat(call: Call) -> Draft | None:
    tensors = list(call["tensors"])
    if not all(is_tensor(item) for item in tensors):
        return None
    tensors = [item for item in tensors if shape_of(item) != (0,)]  # torch passes over empty vectors
    if not tensors:
        return None
    return Draft(ops.Concat(call["dim"] % len(shape_of(tensors[0]))), tuple(tensors))
