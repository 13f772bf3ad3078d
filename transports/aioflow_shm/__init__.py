"""The transport of `shm://`: processes of one user on one host, messages on a socket and large frames in memory.

Theory of operation. A unix socket of whole packets (SEQPACKET) carries the messages; what is written at once travels
as one parcel (`_parcels.py`). A frame from `MEMORY_FROM` on lies in memory that the server makes (`_arena.py`) and
lends its clients in segments (`_budget.py`, `_sharing.py`). Each is passed over the socket once, as a descriptor, and
used again and again (`_segments.py`, `_pool.py`), since the first touch of fresh memory costs ten times a copy. The
receiver maps it for reading and hands over a view (`_leases.py`); when the last view is gone it gives the place back,
with whatever it sends next. A frame for which there is no place travels in the packets, as every frame does to a side
that cannot map the segments.

Nothing of it has a name in the file system but the socket and its lock. The kernel tells the end of the other process
at once, and frees the memory with its last user.

Each connection has a descriptor of its own, and a task that owns it (`aioflow.watch`). A packet is handed over
completely, by plain functions, before anyone who waits is resumed; what is sent meanwhile is written at the end of that
turn.
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError("aioflow_shm supports Linux only: use ipc:// or tcp:// addresses here")

from aioflow_shm._transport import ShmTransport

__all__ = ["ShmTransport"]
