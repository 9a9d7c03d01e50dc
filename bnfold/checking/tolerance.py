"""How far is too far: the one table of budgets.

Every figure is relative to the reference's own error to the float64 truth, in the reference's own dtype, and so needs
no knowledge of the network's depth or width. What a candidate may err, for numbers whose truth has rms `scale`:

    rms      over a whole output    <= rms * own           own = max(the reference's error, floor * unit * scale),
    channel  over one channel       <= channel * own       the error of its run and of rounding its weights once more,
    sample   over one input         <= channel * own       since that is what a fold does, summed as squares
    peak     of one element         <= peak * max(own peak, 4 own)

Where n numbers decide, rms, channel and sample are granted 1 + 2 / sqrt(n) times as much: few tell `own` badly.

One run of the reference and one nudge of its weights are two draws, and both can be far too small where few numbers
make up an error: behind a division by nearly zero, a variance of nearly zero (an InstanceNorm on a constant image
multiplies what its mean is rounded by up to 316 times), a norm that all weights share. So where a candidate comes to
half of what it may err on a sample, `own` takes in what eight further runs in float64 tell, in which every weight,
input and result is moved by its rounding (`bnfold.checking.torch_noise`): of one number each, of a sum of n numbers
sqrt(n / 3) times that, of a sigmoid one of 1. What is right in another order or by another formula is within that.

A sample whose `own` would let anything pass (beyond `ceiling`) tells nothing and is left out, by name; where most are
such, nothing is verified. An infinity where the truth is a rounding away from the dtype's largest number is neither a
difference nor a pass.

Measured: correct folds of 4 networks up to ResNet-50 have 0.68 to 1.26 times the reference's rms error, and planted
faults less than 3 times it in 6 of 147 cases (those the audit of the weights finds).
"""

from collections.abc import Mapping
from dataclasses import fields

from bnfold.checking.result import BudgetRow
from bnfold.errors import BnfoldError

# A budget beyond `ceiling` (relative to the truth's rms) lets a dropped channel pass, so it proves nothing.
TABLE: Mapping[str, BudgetRow] = {
    row.mode: row
    for row in (
        BudgetRow(
            "float32", 2.0**-24, rms=3.0, channel=5.0, peak=5.0, floor=1.0, ceiling=1e-2,
            why="one rounding of each folded weight adds to the reference's own roundings; correct folds measured up to"
            " 1.3 as rms, and one channel's error varies more the fewer numbers it has",
        ),
        BudgetRow(
            "float64", 2.0**-53, rms=3.0, channel=5.0, peak=5.0, floor=8.0, ceiling=1e-2,
            why="as float32; the truth is no better than the model, so its own rounding is in the floor",
        ),
        BudgetRow(
            "float16", 2.0**-11, rms=3.0, channel=5.0, peak=5.0, floor=1.0, ceiling=1e-1,
            why="as float32; 11 bits leave few roundings below one per cent, so the ceiling is higher",
        ),
        BudgetRow(
            "bfloat16", 2.0**-8, rms=3.0, channel=5.0, peak=5.0, floor=1.0, ceiling=5e-1,
            why="as float32, with 8 bits",
        ),
        BudgetRow(
            "tf32", 2.0**-24, rms=16384.0, channel=32768.0, peak=32768.0, floor=1.0, ceiling=1e-1,
            why="TF32 keeps 11 of float32's 24 bits of each factor, a factor of 2^13; emulated, correct folds erred"
            " 1,300 to 6,700 times what float32 does, and twice 2^13 is granted",
        ),
        BudgetRow(
            "runtime", 2.0**-24, rms=6.0, channel=10.0, peak=10.0, floor=16.0, ceiling=1e-2,
            why="no float64 truth: the unoptimised runtime stands in for it, and its error is taken from what one"
            " rounding of every weight and input changes; twice float32's factors, since both sides now err",
        ),
    )
}  # fmt: skip

_SETTABLE = ("rms", "channel", "peak", "floor", "ceiling")


def budget_for(mode: str, overrides: Mapping[str, float] | None = None) -> BudgetRow:
    """Give the row of `mode`, with the user's figures in place of the table's. `BnfoldError` for an unknown name."""
    if mode not in TABLE:
        raise BnfoldError(f"no budget for {mode!r}; there is one for {', '.join(TABLE)}")
    overrides = overrides or {}
    unknown = sorted(set(overrides) - set(_SETTABLE))
    if unknown:
        raise BnfoldError(f"no budget figure {', '.join(unknown)}; there are {', '.join(_SETTABLE)}")
    bad = [name for name, value in overrides.items() if not 0 < value < float("inf")]
    if bad:
        raise BnfoldError(f"budget figure {bad[0]} is {overrides[bad[0]]!r}; wanted a positive number")
    row = TABLE[mode]
    if not overrides:
        return row
    figures = {name: overrides.get(name, getattr(row, name)) for name in _SETTABLE}
    return BudgetRow(row.mode, row.unit, **figures, why=f"overridden by the user; else: {row.why}")


def columns() -> tuple[str, ...]:
    """Name the figures of a row, in the table's order."""
    return tuple(field.name for field in fields(BudgetRow))
