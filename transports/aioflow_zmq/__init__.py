"""The transport of `ipc://` and `tcp://`: DEALER clients and ROUTER servers on ZeroMQ.

Theory of operation. Plain sockets, one owner task each (`_pump.py`): whenever the socket's file descriptor wakes, its
turn sends what is queued, receives until nothing is left, and asks for the socket's events before it returns to the
event loop, because the descriptor is edge-triggered. A message is handed over the moment it was received, with no
await in between, and never from within a `send`. ZeroMQ tells a ROUTER neither who went nor lets it part with one
peer; the socket's monitor and the descriptor from which a message came make up for it (`_server.py`).

What is sent within a turn is written at its end, and what is written to one peer at once travels as one
(`_parcels.py`): a write may wake libzmq's thread, which costs as much as the handling of dozens of small messages. What
is sent outside of a turn is written before `send` returns, unless something waits before it.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    raise ImportError("aioflow_zmq does not support Windows: use Linux, macOS, or the Windows Subsystem for Linux")

from aioflow_zmq._transport import ZmqTransport

__all__ = ["ZmqTransport"]
