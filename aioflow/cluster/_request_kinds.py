"""What both sides must know of each kind of request, in one table each."""

from __future__ import annotations

from typing import Any

from aioflow.cluster import _messages as m

__all__ = ["ANSWERS", "GETS", "ONCE", "STEPS", "WITHDRAWN"]

# By what a request is answered if it succeeds; the others are by `Done`.
ANSWERS: dict[type[Any], type[Any]] = {
    m.Get: m.Rows,
    m.Ask: m.Rows,
    m.Lookup: m.Found,
    m.Stats: m.Statistics,
    m.Read: m.Rows,
    m.Assign: m.Rows,
    m.RunGraph: m.Tensors,
    m.ListDevices: m.Tensors,
    m.ListQueues: m.Tensors,
}
# What takes rows, and has to say whether they were handed over.
GETS = frozenset({m.Get, m.Ask})
# Of graphs: what a server that was started anew knows nothing of any more.
STEPS = frozenset({m.RegisterGraph, m.DeregisterGraph, m.RunGraph, m.SendTensor, m.ListDevices, m.EndOwner})
# What changes something and may not be done twice: the server keeps its answer until it is confirmed.
ONCE = frozenset({m.Put, m.Close, m.Join, m.Leave, m.Delete, m.Assign, m.Reset}) | STEPS
# What a withdrawal is answered to.
WITHDRAWN = frozenset({m.Put, m.Close, m.Join, m.RunGraph, m.ListDevices, m.Reset})
