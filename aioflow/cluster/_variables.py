"""Requests on the variables of a server, and on its containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioflow.cluster import _messages as m
from aioflow.cluster._admission import check_columns, pad_columns
from aioflow.cluster._codec import decode_columns, describe_columns, encode_columns
from aioflow.errors import RemoteProtocolError
from aioflow.resources import ASSIGNMENTS, VariableKey, VariableRef
from aioflow.specs import DTYPES, ElementSpec, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioflow.cluster._sessions import Session
    from aioflow.cluster._tickets import Tickets
    from aioflow.resources import Resources
    from aioflow.specs import Dense
    from aioflow.transport import Frame

__all__ = ["Variables"]


class Variables:
    """Reads and assigns the variables of a broker's resources, and empties containers."""

    def __init__(self, resources: Resources, tickets: Tickets) -> None:
        self._resources = resources
        self._tickets = tickets

    def read(self, session: Session, message: m.Read, _: Sequence[Frame]) -> None:
        """Answer with the value."""
        ref = _ref(session, message)
        self._answer(session, message.id, ref, self._resources.variable(ref).read())

    def assign(self, session: Session, message: m.Assign, frames: Sequence[Frame]) -> None:
        """Assign, and answer with the new value if it is wanted."""
        ref = _ref(session, message)
        if message.how not in ASSIGNMENTS:
            raise RemoteProtocolError(f"Assign.how must be one of {ASSIGNMENTS}, got {message.how!r:.80}")
        columns = decode_columns(message.columns, frames)
        check_columns(ElementSpec((ref.spec,)), columns, [dtype for dtype, _ in message.columns], rows=1)
        new = self._resources.variable(ref).assign(message.how, pad_columns(columns)[0])
        if message.fetch:
            self._answer(session, message.id, ref, new, keep=True)
        else:
            self._tickets.answer(session, message.id, m.Rows(message.id, []), keep=True)

    def reset(self, session: Session, message: m.Reset, _: Sequence[Frame]) -> None:
        """Empty containers."""
        self._tickets.perform_all(self._resources.reset(message.containers))
        self._tickets.answer(session, message.id, m.Done(message.id), keep=True)

    def _answer(self, session: Session, request: int, ref: VariableRef, value: Dense, *, keep: bool = False) -> None:
        described = describe_columns([value], [ref.spec.dtype])
        self._tickets.answer(session, request, m.Rows(request, described), encode_columns([value]), keep=keep)


def _ref(session: Session, message: m.Read | m.Assign) -> VariableRef:
    if message.dtype not in DTYPES:
        raise RemoteProtocolError(f"{type(message).__name__}.dtype {message.dtype!r:.80} is no dtype")
    key = VariableKey(message.container, message.name, session.name if message.private else "")
    return VariableRef(key, TensorSpec(message.dtype, None if message.shape is None else tuple(message.shape)))
