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
    "reshape_as.default",
    "ravel.default",
    "atleast_1d.default",
    "atleast_2d.default",
    "atleast_3d.default",
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


@reads("embedding.default")
def _embedding(call: Call) -> Draft:
    return Draft(ops.Lookup(), (call["weight"], call["indices"]))


@reads("permute.default")
def _permute(call: Call) -> Draft:
    return Draft(ops.Transpose(tuple(axis % call.rank for axis in call["dims"])), (call.x,))


@reads("transpose.int", "swapaxes.default", "swapdims.default")
def _transpose(call: Call) -> Draft:
    first, second = list(call.arguments.values())[1:3]
    return _swapped(call, first, second)


@reads("t.default", "numpy_T.default")
def _t(call: Call) -> Draft | None:
    return _swapped(call, -2, -1) if call.rank == 2 else None


@reads("mT.default")
def _matrix_transpose(call: Call) -> Draft:
    return _swapped(call, -2, -1)


def _swapped(call: Call, first: int, second: int) -> Draft:
    order = list(range(call.rank))
    order[first], order[second] = order[second], order[first]
    return Draft(ops.Transpose(tuple(order)), (call.x,))


@reads("movedim.int", "movedim.intlist", "moveaxis.int", "moveaxis.intlist")
def _movedim(call: Call) -> Draft:
    sources, targets = (_axes(call, name) for name in ("source", "destination"))
    order = [axis for axis in range(call.rank) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return Draft(ops.Transpose(tuple(order)), (call.x,))


def _axes(call: Call, name: str) -> tuple[int, ...]:
    """Give an argument that is one axis or several, never negative."""
    given = call[name]
    return tuple(axis % call.rank for axis in ([given] if isinstance(given, int) else given))


def _take(call: Call, axis: int, indices: range | list[int]) -> Draft:
    return Draft(ops.Take(axis, tuple(indices)), (call.x,))


@reads("slice.Tensor")
def _slice(call: Call) -> Draft:
    axis = call.axis("dim")
    bounds = [None if call[name] is None else length(call[name]) for name in ("start", "end", "step")]
    return _take(call, axis, range(length(shape_of(call.x)[axis]))[slice(*bounds)])


@reads("index_select.default")
def _index_select(call: Call) -> Draft | None:
    indices = call.indices(call["index"])
    return None if indices is None else _take(call, call.axis("dim"), list(indices))


@reads("index.Tensor")
def _index(call: Call) -> Draft | None:
    """A vector of constants on one axis; on several they would be read in step."""
    given = [(axis, index) for axis, index in enumerate(call["indices"]) if index is not None]
    if len(given) != 1:
        return None
    ((axis, index),) = given
    indices = call.indices(index)
    return None if indices is None else _take(call, axis, list(indices))


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


@reads("flip.default", "flipud.default", "fliplr.default")
def _flip(call: Call) -> Draft:
    name = call.node.target._opname  # type: ignore[union-attr]
    return Draft(ops.Flip({"flipud": (0,), "fliplr": (1,)}.get(name) or _axes(call, "dims")), (call.x,))


@reads("repeat.default", "tile.default")
def _tile(call: Call) -> Draft:
    repeats = [length(item) for item in list(call.arguments.values())[1]]
    return Draft(ops.Tile((*[1] * (call.rank - len(repeats)), *repeats)), (call.x,))


@reads("repeat_interleave.self_int")
def _repeat_interleave(call: Call) -> Draft | None:
    if call["dim"] is None:
        return None
    axis, repeats = call.axis("dim"), length(call["repeats"])
    return _take(call, axis, [k for k in range(length(shape_of(call.x)[axis])) for _ in range(repeats)])


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


@reads(
    "chunk.default",
    "unsafe_chunk.default",
    "split.Tensor",
    "split.sizes",
    "split_with_sizes.default",
    "unsafe_split.Tensor",
    "unsafe_split_with_sizes.default",
    "tensor_split.sections",
    "tensor_split.indices",
)
def _split(call: Call) -> Draft:
    return _cut(call, call.axis("dim"))


@reads("hsplit.int", "hsplit.array")
def _hsplit(call: Call) -> Draft:
    return _cut(call, min(1, call.rank - 1))


@reads("vsplit.int", "vsplit.array")
def _vsplit(call: Call) -> Draft:
    return _cut(call, 0)


@reads("dsplit.int", "dsplit.array")
def _dsplit(call: Call) -> Draft:
    return _cut(call, 2)


def _cut(call: Call, axis: int) -> Draft:
    """The sizes stand in what the capture saw."""
    return Draft(ops.Split(axis, tuple(length(part.shape[axis]) for part in parts(call.node))), (call.x,))


@reads("unbind.int")
def _unbind(call: Call) -> Draft:
    return Draft(ops.Split(call.axis("dim"), (1,) * len(parts(call.node)), drop=True), (call.x,))


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


@reads("stack.default")
def _stack(call: Call) -> Draft:
    tensors = list(call["tensors"])
    return Draft(ops.Stack(call["dim"] % (len(shape_of(tensors[0])) + 1)), tuple(tensors))


@reads("hstack.default")
def _hstack(call: Call) -> Draft | None:
    tensors = list(call["tensors"])
    ranks = {len(shape_of(item)) for item in tensors}
    return Draft(ops.Concat(min(1, max(ranks) - 1)), tuple(tensors)) if min(ranks) > 0 else None


@reads("vstack.default", "dstack.default")
def _vstack(call: Call) -> Draft | None:
    """Fewer axes than the result's are a reshape of each, which is left alone."""
    tensors = list(call["tensors"])
    rank = len(call.node.meta["val"].shape)
    axis = 0 if call.node.target._opname == "vstack" else 2  # type: ignore[union-attr]
    return Draft(ops.Concat(axis), tuple(tensors)) if all(len(shape_of(x)) == rank for x in tensors) else None
