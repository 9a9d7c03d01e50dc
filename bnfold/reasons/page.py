"""The form of a page."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """text: why the algebra, or the model, says no. example: a few lines in which it happens."""

    text: str
    example: str
