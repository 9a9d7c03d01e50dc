import pytest

from bnfold.errors import BnfoldError, DifferentError, UnsafeError, UnverifiedError


@pytest.mark.parametrize("kind", [BnfoldError, DifferentError, UnsafeError, UnverifiedError])
def test_a_name_cannot_break_out_of_its_line(kind: type[BnfoldError]) -> None:
    error = kind("a\x1b[2Jb\nc\x85d\u202ee\u2028f")
    assert str(error) == r"a\x1b[2Jb c d\u202ee f"
    assert error.args[0] != str(error)
