"""What every test runs under: nothing blocks an event loop, and what a test leaves behind fails it.

A leak is a task, a thread, a file descriptor, a child process, or the file of a unix socket that was not there before
the test. Only when there seems to be one is anything collected and waited for: a clean test pays under a millisecond.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import stat
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# Hypothesis: an example that is slow is a slow computer. HYPOTHESIS_PROFILE chooses how many are tried.
CALM = settings(deadline=None, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", CALM, max_examples=100)
settings.register_profile("ci", CALM, max_examples=100, derandomize=True)
settings.register_profile("nightly", CALM, max_examples=50_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

# How long what is ending may take to have ended: a worker thread, an I/O thread's descriptors, a task in its finally.
SETTLE_S = 2.0
LOOK_S = 0.005

# Where the time of a system call is no matter, by file: the functions within which it may be made.
MAY_BLOCK = {
    "aioflow/runtime/_loop_thread.py": {"call", "start", "stop"},  # of blocking calls: the caller's thread is to wait
    "aioflow_zmq/_context.py": {"_stop_collector"},  # joins a thread that has nothing left to do
    "aioflow/runtime/_pool.py": {"apply"},  # looks at what is loaded, once for each session
    "zmq/utils/garbage.py": {"start"},  # waits until a thread that it has just started runs
    "aioflow/cluster/_nearby.py": {"_try_nearby"},  # looks for a local file, once for each connection
    "aioflow_shm/_lock.py": {"__init__", "release"},  # files of a local folder, once for each listener
    "aioflow_zmq/_lock.py": {"__init__", "release"},  # the same
}

# Trio keeps idle threads for ten seconds, for whichever run comes next; they end by themselves.
THREADS_KEPT = ("Trio thread",)


@pytest.fixture(scope="session", autouse=True)
def _nothing_blocks() -> Iterator[None]:
    """Fail a call of aioflow's that would block the event loop. Tests themselves, and its test suites, may block it."""
    with blockbuster_ctx(
        scanned_modules=["aioflow", "aioflow_inproc", "aioflow_shm", "aioflow_zmq"],
        excluded_modules=["aioflow.testing"],
    ) as buster:
        for file, functions in MAY_BLOCK.items():
            for function in buster.functions.values():
                function.can_block_in(file, functions)
        yield


@pytest.fixture(scope="session", autouse=True)
def _kept_by_the_process() -> None:
    """Make what the first event loop of its kind leaves to the process for ever: libuv's pipe for signals."""
    with suppress(ImportError):
        import uvloop  # noqa: PLC0415 - not everywhere

        uvloop.new_event_loop().close()


@pytest.fixture(scope="session", autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the temporary files of the tests, and of the programs that they start, in a folder of their own.

    Its name is short: the path of a unix socket has at most 107 bytes.
    """
    tmp_path_factory.getbasetemp()  # stays where pytest keeps it, to be looked at after a failure
    with tempfile.TemporaryDirectory(prefix="t-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def _no_leaks(
    request: pytest.FixtureRequest, _own_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fail the test after which something is there that was not there before."""
    has_gpu = request.node.get_closest_marker("gpu") is not None  # a driver keeps descriptors and threads for ever
    folders = (_own_folder, tmp_path_factory.getbasetemp())
    looks: list[Callable[[], dict[Any, str]]] = [_children, lambda: _sockets(folders)]
    if not has_gpu:
        looks += [_descriptors, _threads]
    before = [look() for look in looks]
    yield
    leaks = [what for look, known in zip(looks, before, strict=True) for what in _settled(look, known)]
    if leaks:
        pytest.fail("the test left behind: " + ", ".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have a coroutine test fail when tasks that it started outlive it; the end of its event loop would hide them."""
    test = pyfuncitem.obj
    if inspect.iscoroutinefunction(test) and not hasattr(test, "hypothesis"):
        pyfuncitem.obj = _without_leaked_tasks(test)
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


def _without_leaked_tasks(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def checked(*arguments: Any, **named: Any) -> None:
        before = _tasks()
        await test(*arguments, **named)
        with anyio.move_on_after(SETTLE_S):
            while _tasks() - before:
                await anyio.sleep(LOOK_S)
        if leaked := _tasks() - before:
            pytest.fail(f"the test left tasks behind: {', '.join(map(repr, leaked))}", pytrace=False)

    return checked


def _tasks() -> set[Any]:
    """Return the tasks of the running event loop that have not ended."""
    with suppress(RuntimeError):
        return asyncio.all_tasks()
    nurseries = list(sys.modules["trio"].lowlevel.current_root_task().child_nurseries)
    tasks: set[Any] = set()
    while nurseries:
        children = nurseries.pop().child_tasks
        tasks |= children
        nurseries += [nursery for child in children for nursery in child.child_nurseries]
    return tasks


def _settled(look: Callable[[], dict[Any, str]], before: dict[Any, str]) -> list[str]:
    """Return what is there and was not, once what is ending has had its time."""
    end = monotonic() + SETTLE_S
    collected = False
    while new := [what for key, what in look().items() if key not in before]:
        if monotonic() > end:
            return new
        if not collected:  # what is only waiting for the garbage collector warns by itself
            gc.collect()
            collected = True
        else:
            sleep(LOOK_S)
    return []


def _threads() -> dict[Any, str]:
    return {
        thread: f"thread {thread.name!r}"
        for thread in threading.enumerate()
        if not thread.name.startswith(THREADS_KEPT) and not _is_kept_by_a_loop(thread)
    }


def _is_kept_by_a_loop(thread: threading.Thread) -> bool:
    """Whether it is an idle worker of anyio's, which a running event loop ends at its own end."""
    loop = getattr(thread, "loop", None)
    return isinstance(loop, asyncio.AbstractEventLoop) and not loop.is_closed()


def _descriptors() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for path in Path("/dev/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            status = os.fstat(int(path.name))
            target = path.readlink() if sys.platform == "linux" else stat.filemode(status.st_mode)
            if int(path.name) != _resource_tracker("_fd"):
                found[path.name, status.st_dev, status.st_ino] = f"descriptor {path.name} of {target}"
    return found


def _children() -> dict[Any, str]:
    """Return the child processes, those included that have ended and that nobody has waited for."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):  # nothing where there is no /proc
        with suppress(OSError):  # the thread has ended
            pids |= set(map(int, path.read_text().split()))
    return {pid: f"process {pid}" for pid in pids if pid != _resource_tracker("_pid")}


def _resource_tracker(attribute: str) -> object:
    """Return a number of the process that multiprocessing keeps from its first use on."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    return getattr(getattr(module, "_resource_tracker", None), attribute, None)


def _sockets(folders: tuple[Path, ...]) -> dict[Any, str]:
    found: dict[Any, str] = {}
    todo = [str(folder) for folder in folders]
    while todo:
        with suppress(FileNotFoundError), os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                elif stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode):
                    found[entry.path] = f"socket {entry.path}"
    return found
