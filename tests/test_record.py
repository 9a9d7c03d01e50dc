"""A record is what a frozen dataclass with slots is."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import pytest

from bnfold.record import record


@record
class Point:
    """A point."""

    x: float
    y: float = 2.0
    tags: list[str] = field(default_factory=list, compare=False)
    note: str = field(default="none", repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """What Point has to be like."""

    x: float
    y: float = 2.0
    tags: list[str] = field(default_factory=list, compare=False)
    note: str = field(default="none", repr=False)


@record
class Marked(Point):
    """A point with one field more."""

    mark: int = 0


@record
class Empty:
    """Nothing but a type."""


@record(eq=False)
class Alone:
    """Equal to itself alone."""

    x: float


class Named:
    """What a record may be derived from."""

    def label(self) -> str:
        return "a base"


@record(eq=False, slots=False)
class Cached(Named):
    """A record whose properties may be cached, and that asks its base."""

    x: float

    @cached_property
    def double(self) -> float:
        return 2 * self.x

    def label(self) -> str:
        return f"{super().label()} of {self.x}"


@record(eq=False, slots=False)
class More(Cached):
    """One derived from it."""

    y: float

    def label(self) -> str:
        return f"{super().label()} and {self.y}"


ARGUMENTS = [((1.0,), {}), ((1.0, 3.0), {}), ((), {"x": 1.0, "tags": ["a"]}), ((1.0, 3.0, ["a"], "b"), {})]
QUESTIONS: list[Callable[[Any], object]] = [
    lambda one: (one.x, one.y, one.tags, one.note),
    lambda one: repr(one).partition("(")[2],
    lambda one: hash(one),
    lambda one: one == replace(one, x=one.x),
    lambda one: one == replace(one, y=0.0),
    lambda one: one == replace(one, tags=["other"]),
    lambda one: one == replace(one, note="other"),
    lambda one: [(item.name, item.default, item.compare) for item in fields(one)],
    lambda one: type(one).__match_args__,
    lambda one: copy.deepcopy(one) == one,
    lambda one: pickle.loads(pickle.dumps(one)) == one,
    lambda one: hasattr(one, "__dict__"),
]


@pytest.mark.parametrize(("arguments", "named"), ARGUMENTS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_it_answers_as_a_dataclass_does(
    question: Callable[[Any], object], arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    assert question(Point(*arguments, **named)) == question(Model(*arguments, **named))


def test_no_two_share_a_default_that_is_made() -> None:
    assert Point(1.0).tags is not Point(1.0).tags


@pytest.mark.parametrize("wrong", [{}, {"x": 1.0, "z": 2.0}])
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Point(**wrong)


def test_nothing_of_it_changes() -> None:
    point = Point(1.0)
    for name in ("x", "other"):
        with pytest.raises(FrozenInstanceError):
            setattr(point, name, 2.0)
    with pytest.raises(FrozenInstanceError):
        del point.x
    assert point == Point(1.0)


def test_derived_ones_have_the_fields_before() -> None:
    marked = Marked(1.0, mark=3)
    assert (marked.x, marked.y, marked.mark) == (1.0, 2.0, 3)
    assert repr(marked) == "Marked(x=1.0, y=2.0, tags=[], mark=3)"
    assert marked != Point(1.0)
    assert Point(1.0) != marked


def test_types_without_fields_differ() -> None:
    assert Empty() == Empty()
    assert hash(Empty()) == hash(())
    assert Empty() != Alone(1.0)  # type: ignore[comparison-overlap]


def test_it_may_be_equal_to_itself_alone() -> None:
    one = Alone(1.0)
    assert one == one
    assert one != Alone(1.0)
    assert len({one, Alone(1.0)}) == 2


def test_without_slots_its_properties_are_cached_and_its_base_is_asked() -> None:
    more = More(1.0, 2.0)
    assert (more.double, more.__dict__["double"]) == (2.0, 2.0)
    assert more.label() == "a base of 1.0 and 2.0"
    with pytest.raises(FrozenInstanceError):
        more.x = 3.0  # type: ignore[misc]


def test_the_first_of_each_class_is_made_as_all_others_are() -> None:
    @record
    class Late:
        x: float
        y: float = 2.0

    @record
    class Later(Late):
        z: float = 3.0

    with pytest.raises(TypeError, match="missing 1 required"):
        Later()  # type: ignore[call-arg]
    assert Later(1.0, z=4.0) == Later(1.0, 2.0, 4.0)
    assert Late(1.0) == Late(1.0, 2.0)


@record(eq=False, frozen=False)
class Counted:
    """One that changes."""

    names: list[str] = field(default_factory=list)
    total: int = 0


def test_it_may_change() -> None:
    one, other = Counted(), Counted(total=2)
    one.total += 1
    one.names.append("a")
    assert (one.total, one.names, other.total, other.names) == (1, ["a"], 2, [])
    assert len({one, other}) == 2
    with pytest.raises(AttributeError):
        one.more = 1  # type: ignore[attr-defined]


def test_one_that_changes_and_is_compared_has_no_hash() -> None:
    @record(frozen=False)
    class Pair:
        x: int

    assert Pair(1) == Pair(1)
    with pytest.raises(TypeError, match="unhashable"):
        hash(Pair(1))


def test_a_field_without_a_default_can_not_follow_one_that_has_one() -> None:
    @record
    class Wrong(Point):
        last: int  # type: ignore[misc]

    with pytest.raises(TypeError, match="without a default"):
        Wrong(1.0)  # type: ignore[call-arg]
