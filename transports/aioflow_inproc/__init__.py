"""Servers and clients in one process and one event loop: `inproc://name`.

Nothing is serialised: frames are handed over by reference, and writable ones are copied (transport rule 5). Delivery
is never re-entrant: each end of a connection has a task of its own that hands over what arrived.
"""

from __future__ import annotations

from aioflow_inproc._transport import InprocTransport

__all__ = ["InprocTransport"]
