"""The command `aioflow`, also `python -m aioflow`.

Exit codes: 0 done, 1 an error of aioflow's (one line on standard error says cause and next step), 2 wrong usage, 130
Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from importlib.metadata import version

from aioflow.cli._devices import add_devices
from aioflow.cli._keys import add_keys
from aioflow.cli._queues import add_queues
from aioflow.cli._serve import add_serve
from aioflow.cli._up import add_up
from aioflow.errors import AioflowError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="aioflow", description="Queues of tensors between processes.")
    parser.add_argument("--version", action="version", version=f"aioflow {version('aioflow-mq')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_devices(commands)
    add_keys(commands)
    add_queues(commands)
    add_serve(commands)
    add_up(commands)
    parsed = parser.parse_args(arguments)
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # names have characters that a terminal may not know
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except AioflowError as error:
        print(f"aioflow: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ENOSPC}:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter will flush it once more
        if error.errno == errno.ENOSPC:
            print(f"aioflow: cannot write: {error.strerror}; free some and try again", file=sys.stderr)
        return 1
    return code
