"""One process: waiting, background tasks, cancellation, the embedded host, and an event loop in a thread.

`_host` says what a session asks of a host and how a call is waited for without losing anything; `_embedded` is the host
in this process, and `aioflow.cluster` has the one behind a connection.
"""

from aioflow.runtime._background import Background
from aioflow.runtime._cancellation import await_outcome, begin_call, current_turn, finish
from aioflow.runtime._clock import event_loop_clock, now
from aioflow.runtime._config import SessionConfig
from aioflow.runtime._copy_ahead import CopyAhead
from aioflow.runtime._crew import Crew
from aioflow.runtime._current import CurrentSession, current
from aioflow.runtime._devices import SessionDevices, open_in_thread
from aioflow.runtime._embedded import EmbeddedHost
from aioflow.runtime._executor import Executor
from aioflow.runtime._feeds import Asked, read_request
from aioflow.runtime._host import (
    Call,
    Host,
    Hosts,
    Request,
    Withdrawn,
    complete,
    complete_get,
    complete_put,
    complete_request,
    hold_get,
)
from aioflow.runtime._local_host import Dispatch, LocalHost, no_task_named
from aioflow.runtime._loop_thread import LoopThread, raise_owed_interrupt
from aioflow.runtime._soon import Soon
from aioflow.runtime._taken import Taken
from aioflow.runtime._timer import Timer
from aioflow.runtime._turns import begin_turn, every_call_gives_a_turn, give_turn, on_asyncio
from aioflow.runtime._waiter import Waiter

__all__ = [
    "Asked",
    "Background",
    "Call",
    "CopyAhead",
    "Crew",
    "CurrentSession",
    "Dispatch",
    "EmbeddedHost",
    "Executor",
    "Host",
    "Hosts",
    "LocalHost",
    "LoopThread",
    "Request",
    "SessionConfig",
    "SessionDevices",
    "Soon",
    "Taken",
    "Timer",
    "Waiter",
    "Withdrawn",
    "await_outcome",
    "begin_call",
    "begin_turn",
    "complete",
    "complete_get",
    "complete_put",
    "complete_request",
    "current",
    "current_turn",
    "event_loop_clock",
    "every_call_gives_a_turn",
    "finish",
    "give_turn",
    "hold_get",
    "no_task_named",
    "now",
    "on_asyncio",
    "open_in_thread",
    "raise_owed_interrupt",
    "read_request",
]
