"""Names of private queues, which only messages to people show."""

from __future__ import annotations

import itertools
import sys
from pathlib import PurePath

__all__ = ["private_name"]

_numbers = itertools.count(1)


def private_name(kind: str) -> str:
    """Name a private queue by what a user can find: the line that calls its class."""
    frame = sys._getframe(3)  # noqa: SLF001 - above this, and the constructors of `Queue` and of its kind
    file = PurePath(frame.f_code.co_filename).name.encode(errors="backslashreplace").decode()
    return f"private {kind} {next(_numbers)}, defined at {file}:{frame.f_lineno}"
