"""Wrong usage: errors that only another command line mends, whatever is in the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ExplainersError, InputError, UnknownNameError

USAGE = 2  # the exit status, which the parser of the command line uses as well


class UsageError(InputError):
    """An option or argument is missing, has a value of the wrong form, or contradicts another one."""


@contextmanager
def parsing() -> Iterator[None]:
    """A context that parses options: the library's errors in it are errors of usage."""
    try:
        yield
    except ExplainersError as error:
        raise UsageError(str(error)) from error


def status_of(error: BaseException, otherwise: int) -> int:
    """The exit status after an error. A name that is unknown to the library was given on the command line."""
    return USAGE if isinstance(error, (UsageError, UnknownNameError)) else otherwise
