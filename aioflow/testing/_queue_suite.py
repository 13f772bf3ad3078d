"""The conformance suite of queues: what the public interface promises, checked in a session of any kind.

Each check opens its own sessions and bounds every wait; nothing sleeps. That an operation waits is seen in the queue's
own statistics. A check that fails raises an AssertionError or a TimeoutError with the name of the check in a note.
"""

from __future__ import annotations

import anyio

from aioflow.testing._queue_checks_engine import ENGINE_CHECKS
from aioflow.testing._queue_checks_flow import FLOW_CHECKS
from aioflow.testing._queue_checks_kinds import KIND_CHECKS
from aioflow.testing._queue_checks_sessions import SESSION_CHECKS, SHARING_CHECKS
from aioflow.testing._queue_checks_values import VALUE_CHECKS
from aioflow.testing._queue_stage import OpenSession, QueueCheck

__all__ = ["QUEUE_CHECKS", "SHARED_QUEUE_CHECKS", "OpenSession", "QueueCheck", "check_queue", "run_queue_check"]

# Long enough for a loaded two-core machine; a check that hangs fails after it.
CHECK_S = 15.0

# By name: those for any session, and those for sessions that share queues with each other.
QUEUE_CHECKS: dict[str, QueueCheck] = {
    check.__name__: check for check in (*ENGINE_CHECKS, *KIND_CHECKS, *VALUE_CHECKS, *FLOW_CHECKS, *SESSION_CHECKS)
}
SHARED_QUEUE_CHECKS: dict[str, QueueCheck] = {check.__name__: check for check in SHARING_CHECKS}


async def check_queue(open_session: OpenSession, *, shared: bool) -> None:
    """Check sessions against all that a queue promises.

    Args:
        open_session: Returns an async context manager of a fresh session, which it makes current; called several times.
        shared: Whether those sessions share queues, as sessions on one server do and embedded ones do not.
    """
    names = [*QUEUE_CHECKS, *(SHARED_QUEUE_CHECKS if shared else ())]
    for name in names:
        await run_queue_check(name, open_session)


async def run_queue_check(name: str, open_session: OpenSession) -> None:
    """Run one check, bounded; a failure says in a note which."""
    check = QUEUE_CHECKS.get(name) or SHARED_QUEUE_CHECKS[name]
    try:
        with anyio.fail_after(CHECK_S):
            await check(open_session)
    except (AssertionError, TimeoutError, BaseExceptionGroup) as error:
        error.add_note(f"in {name}")
        raise
