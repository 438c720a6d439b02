"""What a target of the fuzzer is, and what holds of every error that one may end in.

A target's ``build`` imports what it needs and returns the function to call with any bytes; it ends in a value that is
checked or in an error that is documented. The fuzzer watches which code of ``watched`` each input reaches. Seeds are
made by code, so there is no corpus to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

Check = Callable[[bytes], None]
MAX_TEXT = 3000
"""Characters that an error may have before it is cut for the failure file or a log."""


class Broken(AssertionError):
    """A promise that an input has broken."""


@dataclass(frozen=True)
class Target:
    """``build`` returns the function to fuzz; ``seeds`` the inputs to begin with; ``watched`` are packages."""

    build: Callable[[], Check]
    seeds: Callable[[], Iterable[bytes]]
    watched: tuple[str, ...] = ("gluonseg",)
    max_length: int = 1 << 14


def check(is_kept: bool, promise: str) -> None:
    """Raise Broken when a promise is not kept."""
    if not is_kept:
        raise Broken(promise)


def check_error(error: BaseException) -> None:
    """What holds of every error's text, wherever it will be shown."""
    from gluonseg.errors import FAILURE_LIMIT, describe_failure

    text, code = describe_failure(error)
    check(code == 2, "an error of the caller ends with code 2")
    check(len(text) <= FAILURE_LIMIT, "the failure file is short")
    check(all(line.isprintable() for line in text.split("\n")), "the failure file is printable")
    check(len(str(error)) < MAX_TEXT, "an error's text is short")
