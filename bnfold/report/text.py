"""Numbers and names as reports print them."""

import math


def figure(value: float | None, digits: int = 3) -> str:
    """Print a number with few digits; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """Print a share as a percentage; 100 % only where nothing is missing."""
    if value is None or math.isnan(value):
        return "-"
    return f"{math.floor(value * 1000) / 10:g} %"


def plural(count: int, noun: str) -> str:
    """`1 output`, `2 outputs`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
