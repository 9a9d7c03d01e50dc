"""Poolings, reductions, resampling and padding of ATen."""

from bnfold import ops
from bnfold.adapters.torch_call import Call, Draft, length, reads, shape_of


def _batched(call: Call, spatial: int) -> bool:
    """Whether there is a batch axis: without one the channels are on axis 0, and the rules look at axis 1."""
    return call.rank == spatial + 2


def _pools(spatial: int) -> None:
    names = (f"max_pool{spatial}d.default", f"max_pool{spatial}d_with_indices.default")

    @reads(*names, f"adaptive_max_pool{spatial}d.default")
    def _max_pool(call: Call) -> Draft | None:
        return Draft(ops.MaxPool(), (call.x,)) if _batched(call, spatial) else None

    @reads(f"avg_pool{spatial}d.default")
    def _avg_pool(call: Call) -> Draft | None:
        """Padding that is counted, or reached by ceil_mode, brings zeros in; a given divisor isn't the count."""
        if not _batched(call, spatial):
            return None
        padded = any(size != 0 for size in _numbers(call["padding"]))
        counts = (padded and bool(call["count_include_pad"])) or call.arguments.get("divisor_override") is not None
        return Draft(ops.AvgPool(counts_padding=counts), (call.x,))

    @reads(f"adaptive_avg_pool{spatial}d.default", f"_adaptive_avg_pool{spatial}d.default")
    def _adaptive(call: Call) -> Draft | None:
        return Draft(ops.AvgPool(counts_padding=False), (call.x,)) if _batched(call, spatial) else None


def _numbers(value: object) -> list[int]:
    return [value] if isinstance(value, int) else list(value)  # type: ignore[call-overload]


for _spatial in (1, 2, 3):
    _pools(_spatial)


def _reductions(kind: str, *targets: str) -> None:
    @reads(*targets)
    def _reduce(call: Call) -> Draft | None:
        if call.arguments.get("dtype") is not None:
            return None
        given = call.arguments.get("dim")
        axes = range(call.rank) if given in (None, []) else (axis % call.rank for axis in _numbers(given))
        return Draft(ops.Reduce(kind, tuple(sorted(axes)), bool(call.arguments.get("keepdim"))), (call.x,))


_reductions("mean", "mean.dim", "mean.default")
_reductions("sum", "sum.dim_IntList", "sum.default")
_reductions("max", "amax.default", "max.dim")  # where the maximum is, max.dim's second output, stays
_reductions("min", "amin.default", "min.dim")


@reads(
    *(f"upsample_{kind}.{form}" for kind in ("nearest1d", "nearest2d", "nearest3d") for form in ("vec", "default")),
    *(f"_upsample_nearest_exact{n}d.{form}" for n in (1, 2, 3) for form in ("vec", "default")),
    *(
        f"upsample_{kind}.{form}"
        for kind in ("linear1d", "bilinear2d", "trilinear3d", "bicubic2d")
        for form in ("vec", "default")
    ),
)
def _resize(call: Call) -> Draft:
    """Every kernel's weights add up to 1, at the borders too: positions outside are clamped to them."""
    return Draft(ops.Resize(affine=True), (call.x,))


@reads("pad.default", "constant_pad_nd.default")
def _pad(call: Call) -> Draft | None:
    mode = call.arguments.get("mode", "constant")
    value = call.arguments.get("value")
    if mode not in ("constant", "reflect", "replicate", "circular"):
        return None
    return Draft(ops.Pad(_pairs(call), mode, 0.0 if value is None else float(value)), (call.x,))


def _mirrors(mode: str, *targets: str) -> None:
    @reads(*targets)
    def _pad_by(call: Call) -> Draft:
        return Draft(ops.Pad(_pairs(call), mode), (call.x,))


def _pairs(call: Call) -> ops.Pads:
    """torch counts pairs from the last axis."""
    flat = [length(size) for size in (call["pad"] if "pad" in call.arguments else call["padding"])]
    pairs = [(flat[k], flat[k + 1]) for k in range(0, len(flat), 2)]
    return ((0, 0),) * (len(shape_of(call.x)) - len(pairs)) + tuple(reversed(pairs))


_mirrors("reflect", *(f"reflection_pad{n}d.default" for n in (1, 2, 3)))
_mirrors("replicate", *(f"replication_pad{n}d.default" for n in (1, 2, 3)))
