"""Draws the reference page of the wire, `docs/wire.md`, from the table of messages.

python tests/meta/wire_page.py        # writes the page anew
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from aioflow.cluster import _messages as messages
from aioflow.cluster import _replies as replies
from aioflow.cluster import _requests as requests

PAGE = Path(__file__).parents[2] / "docs" / "wire.md"

HEAD = f"""# The wire

*Drawn from `aioflow/cluster/_messages.py` by `python tests/meta/wire_page.py`; a test keeps it current.*

This is version {messages.PROTOCOL_VERSION} of the protocol. A message is a list of frames, which the transport keeps
whole and in order. The first frame is the header: a msgpack array of the message's code and its fields, at most 64 KiB.
`Put`, `Assign` and `Rows` have raw frames behind it, in C order: one for each column of numbers; two for each of
strings, the int64 lengths and the bytes; and two for each of numbers in rows whose shapes differ, where every size
behind the number of rows is nil: the int64 shape of each row, and the values of one row after the other. What a batch
of such rows is padded to is the consumer's affair. Nothing is ever pickled. Whatever is not exactly as on this page is
refused.

A request carries an `id`, which is its number in the session, counting up. Each is answered by exactly one of `Done`,
`Rows`, `Found`, `Statistics`, `Withdrawn` and `Error`; a get that was withdrawn is not answered.

A session outlives its connections. Each connection begins with `Hello` and `Welcome`. Then the client sends again what
may not have arrived, in this order: acknowledgements, `Resume`, definitions, and in the order of their ids every
request without an answer, or its withdrawal. The server knows a request that changes a queue by its id: one that waits
goes on waiting, and one that is done is answered once more. It keeps such an answer until the client has confirmed it.
"""


def draw() -> str:
    """Return the page."""
    codes = {message: code for code, message in messages.MESSAGES.items()}
    parts = [HEAD]
    for heading, chosen in (
        ("From a client", [m for m in codes if m.__module__ == requests.__name__]),
        ("From a server", [m for m in codes if m.__module__ == replies.__name__]),
    ):
        parts.append(f"\n## {heading}\n")
        parts.extend(_message(message, codes[message]) for message in chosen)
    return "".join(parts)


def _message(message: type[Any], code: int) -> str:
    about, _, attributes = inspect.getdoc(message).partition("\nAttributes:\n")  # type: ignore[union-attr]
    meanings = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE))
    rows = [
        f"| `{name}` | {rule} | {' '.join(meanings.get(name, '').split())} |".replace("  |", " |")
        for name, rule in messages.RULES[message]
    ]
    table = ["| field | value | |", "|---|---|---|", *rows] if rows else ["It has no fields."]
    return "\n".join([f"\n### {code} {message.__name__}\n", about.strip(), "", *table, ""])


if __name__ == "__main__":
    PAGE.write_text(draw())
