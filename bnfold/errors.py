"""What can go wrong, and the exit status that says so (docs/exit-status.md). One line each, no traceback."""

from bnfold.printable import visible


class BnfoldError(Exception):
    """The user's input or request can't be used. Exit status 2.

    The message names the thing, what was got, what was wanted, and the way out, in one or two lines.
    """

    exit_status = 2

    def __str__(self) -> str:
        """Give the message in one printable line: the names in it come from files that somebody else made."""
        return visible(super().__str__())


class DifferentError(BnfoldError):
    """The two models are not the same function. Exit status 1."""

    exit_status = 1


class UnverifiedError(BnfoldError):
    """Nothing was found wrong, and nothing was proven: a provider, a truth or a sample is missing. Exit status 3."""

    exit_status = 3


class UnsafeError(BnfoldError):
    """Opening the file could run code, leave its folder or exhaust the machine. Exit status 4."""

    exit_status = 4
