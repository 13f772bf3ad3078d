"""Errors say what was expected, what came and what to do, are of the right class, and leave the queue as it was."""

from __future__ import annotations

import gc
import socket
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import aioflow as flow
from aioflow.cluster import _admission
from aioflow.testing._queue_stage import refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One event loop: the classes and texts do not depend on it."""
    return "asyncio"


@pytest.fixture(params=["embedded", "ipc", "tcp"])
async def session(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[flow.Session]:
    """A session of a kind, which is current."""
    if request.param == "embedded":
        async with flow.Session() as opened:
            yield opened
        return
    address = f"ipc://{folder}/s" if request.param == "ipc" else "tcp://127.0.0.1:0"
    async with flow.Server({"local": [address]}) as server, flow.Session(server.address) as opened:
        yield opened


async def test_a_batch_that_no_message_holds(folder: Path) -> None:
    """One long element among many short ones: padded they are too long; the server and its other clients go on."""
    queue = flow.PaddingFIFOQueue(2048, ["uint8"], [[None]], shared_name="long")
    async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server, flow.Session(server.address):
        await queue.enqueue(np.zeros(1 << 20, np.uint8))
        await queue.enqueue_many((np.zeros((1100, 1), np.uint8),))
        with refused(flow.QueueError, "a batch of 1101 elements", "1154482176 bytes", "take fewer elements"):
            await queue.dequeue_many(1101)
        assert await queue.size() == 1101
        assert (await queue.dequeue_many(2)).shape == (2, 1 << 20)


async def test_a_put_that_no_message_holds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the call, and the session goes on."""
    monkeypatch.setattr(_admission, "FRAME_BYTES_MAX", 1000)
    queue = flow.FIFOQueue(10, "uint8", [[501]], shared_name="long")
    async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server, flow.Session(server.address):
        with refused(flow.SpecMismatch, "queue 'long': 2 rows at once", "1002 bytes", "put or take fewer"):
            await queue.enqueue_many((np.zeros((2, 501), np.uint8),))
        await queue.enqueue(np.zeros(501, np.uint8))
        assert await queue.size() == 1


@pytest.mark.parametrize("dtype", ["int8", "str"])
async def test_an_element_of_as_many_components_as_there_may_be(folder: Path, dtype: str) -> None:
    """It travels in one message."""
    element = tuple([1 if dtype == "int8" else "x"] * 1024)
    queue = flow.FIFOQueue(10, [dtype] * 1024, [[]] * 1024, shared_name="wide")
    async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server, flow.Session(server.address):
        await queue.enqueue(element)
        assert await queue.dequeue() == element


async def test_a_closed_session_leaves_no_descriptor(folder: Path) -> None:
    """Also where the garbage is not collected."""
    queue = flow.FIFOQueue(10, "int8", [[]], shared_name="q")
    counts: list[int] = []
    async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server:
        gc.disable()
        try:
            for _ in range(12):
                async with flow.Session(server.address):
                    await queue.enqueue(1)
                    await queue.dequeue()
                counts.append(len(list(Path("/proc/self/fd").iterdir())))
        finally:
            gc.enable()
    assert max(counts) - min(counts) < 6, counts  # some are still on their way out


# Name: what is put, and what the message contains.
BAD_ELEMENTS: dict[str, tuple[Any, list[str]]] = {
    "wrong shape": ((np.zeros(4, np.float32), 1), ["component 0", "got shape [4]", "expected float32[3]"]),
    "wrong rank": ((np.zeros((1, 3), np.float32), 1), ["component 0", "got shape [1, 3]", "expected float32[3]"]),
    "wrong dtype": ((np.zeros(3, np.complex64), 1), ["component 0", "complex64", "same_kind", '.astype("float32")']),
    "float for int": ((np.zeros(3), 1.5), ["component 1", "Python float values", "expected int64[]"]),
    "overflow": ((np.zeros(3), 2**63), ["component 1", "9223372036854775808", "int64"]),
    "text": ((np.zeros(3), "one"), ["component 1", "str 'one'", "expected int64[]"]),
    "too few": ((np.zeros(3),), ["got 1 components", "a tuple of 2: float32[3], int64[]"]),
    "too many": ((np.zeros(3), 1, 2), ["got 3 components", "a tuple of 2: float32[3], int64[]"]),
    "no tuple": (np.zeros(3), ["single ndarray", "a tuple of 2: float32[3], int64[]"]),
    "a dict": ({"x": 1}, ["a dict with keys ['x']", "no names", "names="]),
    "objects": ((np.array([object()] * 3), 1), ["component 0", "object", "float32"]),
    "None": ((None, 1), ["component 0", "None", "expected float32[3]"]),
    "ragged": (([1, [2, 3], 4], 1), ["component 0", "ragged", "float32[3]"]),
}


@pytest.mark.parametrize("name", BAD_ELEMENTS)
async def test_a_bad_element(session: flow.Session, name: str) -> None:
    """A value that does not fit is refused at the call, with the queue's name, and nothing is queued."""
    value, parts = BAD_ELEMENTS[name]
    q = flow.FIFOQueue(10, ["float32", "int64"], [[3], []], shared_name="samples")
    await q.enqueue((np.ones(3), 7))
    with refused(flow.SpecMismatch, "queue 'samples'", *parts) as caught:
        await q.enqueue(value)
    assert isinstance(caught[0], ValueError)
    assert await q.size() == 1
    array, number = await q.dequeue()
    assert (array.tolist(), number) == ([1, 1, 1], 7)


async def test_wrong_names(session: flow.Session) -> None:
    """A queue with names takes dicts of exactly those."""
    q = flow.FIFOQueue(10, ["float32", "int64"], [[], []], ["x", "y"], shared_name="named")
    await q.enqueue({"x": 1, "y": 2})
    for value, part in [({"x": 1}, "['x']"), ({"x": 1, "z": 2}, "['x', 'z']"), ((1, 2), "a tuple")]:
        with refused(flow.SpecMismatch, "queue 'named'", part, "['x', 'y']"):
            await q.enqueue(value)
    assert (await q.size(), await q.dequeue()) == (1, {"x": 1, "y": 2})


async def test_an_object_dtype() -> None:
    """Objects are no dtype: the message lists those that are."""
    for dtype in (object, "O", "datetime64[s]", "float128"):
        with refused(flow.SpecMismatch, str(dtype), "float16 to float64", "'str'"):
            flow.FIFOQueue(10, [dtype])


async def test_an_unknown_queue(session: flow.Session) -> None:
    """A lookup of what is not there lists what is."""
    await flow.FIFOQueue(10, "int64", shared_name="train").size()
    with refused(flow.NotFound, "no queue 'trian'", "['train']", "made by the first operation"):
        await flow.lookup("trian")


async def test_a_definition_that_disagrees(session: flow.Session) -> None:
    """A second definition that disagrees gets every difference, with both sides of each; the queue is left alone."""
    q = flow.RandomShuffleQueue(
        10, 2, ["float32"], [[3]], seed=1, shared_name="mixed", capacity_bytes=1000, producers=1
    )
    await q.enqueue(np.ones(3))
    other = flow.RandomShuffleQueue(
        20, 3, ["int64", "str"], [[4], []], seed=2, shared_name="mixed", capacity_bytes=2000, producers=2
    )
    with refused(
        flow.SpecMismatch,
        "'mixed'",
        "capacity: the queue has 10, the definition 20",
        "capacity_bytes: the queue has 1000, the definition 2000",
        "seed: the queue has 1, the definition 2",
        "producers: the queue has 1, the definition 2",
        "min_after_dequeue: the queue has 2, the definition 3",
        "dtypes: the queue has ['float32'], the definition ['int64', 'str']",
        "shapes: the queue has [[3]], the definition [[4], []]",
        "same definition everywhere",
        "another shared_name",
    ):
        await other.enqueue((np.ones(4, np.int64), "x"))
    with refused(flow.SpecMismatch, "kind: the queue is a RandomShuffleQueue, the definition a FIFOQueue"):
        await flow.FIFOQueue(10, ["float32"], [[3]], shared_name="mixed").size()
    assert await q.size() == 1


async def test_an_unbounded_queue_on_a_server(folder: Path) -> None:
    """Where others share the memory, a queue without a limit in elements must have one in bytes."""
    async with flow.Server({"local": [f"ipc://{folder}/s"]}) as server, flow.Session(server.address):
        with refused(flow.SpecMismatch, "'free'", "capacity=-1", "capacity_bytes="):
            await flow.FIFOQueue(-1, "int64", shared_name="free").enqueue(1)
        await flow.FIFOQueue(-1, "int64", shared_name="free", capacity_bytes=100).enqueue(1)


# Addresses


async def test_an_address_in_use(folder: Path) -> None:
    """A second server at an address is refused and the first one is not disturbed; ipc and tcp."""
    for bind in (f"ipc://{folder}/s", "tcp://127.0.0.1:0"):
        async with flow.Server({"local": [bind]}) as server, flow.Session(server.address):
            q = flow.FIFOQueue(10, "int64", shared_name="q")
            await q.enqueue(1)
            with refused(flow.AddressInUse, server.address):
                await flow.Server({"local": [server.address]}).start()
            assert await q.dequeue() == 1
        async with flow.Server({"local": [server.address]}):
            pass


async def test_a_port_of_another_program() -> None:
    """A port that another program has is in use, too."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with refused(flow.AddressInUse, str(port)):
            await flow.Server({"local": [f"tcp://127.0.0.1:{port}"]}).start()


async def test_no_server_is_there(folder: Path) -> None:
    """Nobody at an address: ConnectFailed within connect_s and a second, which says how to start a server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"ipc://{folder}/nobody", f"tcp://127.0.0.1:{port}", f"127.0.0.1:{port}", "inproc://nobody"):
        started = monotonic()
        how = "flow.Server(" if address.startswith("inproc") else "aioflow serve --bind"
        with refused(flow.ConnectFailed, "0.5 s", how, address):
            await flow.Session(address, config=flow.SessionConfig(connect_s=0.5)).open()
        assert monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("ipc:///tmp/" + "x" * 120, ["107"]),
        ("ipc:///nonexistent-folder/s", ["nonexistent-folder"]),
        ("tcp://0.0.0.0:0", ["0.0.0.0", "aioflow keys make"]),
        ("tcp://*:0", ["aioflow keys make"]),
        ("smoke://signals", ["'smoke://signals'", "ipc://", "tcp://"]),
    ],
)
async def test_an_address_that_cannot_work(address: str, parts: list[str]) -> None:
    """What can never be bound is refused at once: a path too long, no folder, beyond this host, no such transport."""
    started = monotonic()
    with refused(flow.ConnectFailed, *parts):
        await flow.Server({"local": [address]}).start()
    assert monotonic() - started < 1


async def test_an_address_that_cannot_be_reached() -> None:
    """A session says at once that an address can never work."""
    started = monotonic()
    for address, part in [("smoke://signals", "'smoke://signals'"), ("ipc:///tmp/" + "x" * 120, "107")]:
        with refused(flow.ConnectFailed, part):
            await flow.Session(address).open()
    assert monotonic() - started < 1


def test_no_address() -> None:
    """What is no address is refused when the session or the cluster is made, with the forms that are."""
    for text in ("", "localhost", "tmp/flow.sock", ":5", "a b://c", "http:/x"):
        if text:
            with refused(flow.ConnectFailed, repr(text), "ipc:///path", "tcp://host:port"):
                flow.Session(text)
        with refused(flow.ConnectFailed, repr(text), "ipc:///path", "tcp://host:port"):
            flow.ClusterSpec({"local": [text]})


async def test_a_server_of_another_task(folder: Path) -> None:
    """In a cluster a shared queue names its task, and is reached there, whichever server the session is opened on."""
    cluster = {"ps": [f"ipc://{folder}/0", f"ipc://{folder}/1"]}
    config = flow.SessionConfig(connect_s=0.2)
    async with flow.Server(cluster, task_index=1) as server, flow.Session(server.address, config=config):
        with refused(flow.PlacementError, "'q'", "2 tasks", "device='/job:ps/task:1'"):
            await flow.FIFOQueue(10, "int64", shared_name="q").size()
        with refused(flow.PlacementError, "/job:ps/task:2", "/job:ps/task:0", "/job:ps/task:1"):
            await flow.FIFOQueue(10, "int64", shared_name="q", device="/job:ps/task:2").size()
        other = flow.FIFOQueue(10, "int64", shared_name="q", device="/job:ps/task:0")
        with refused(flow.ConnectFailed, "/job:ps/task:0 is missing", f"{folder}/0", "--job ps --task 0"):
            await other.size()
        async with flow.Server(cluster, task_index=0):
            assert await other.size() == 0
        await flow.FIFOQueue(10, "int64", shared_name="q", device="/job:ps/task:1").enqueue(1)
        await flow.FIFOQueue(10, "int64").enqueue(1)
    with refused(flow.PlacementError, "/job:ps/task:2", "/job:ps/task:0", "/job:ps/task:1"):
        flow.Server(cluster, "ps", 2)
    with refused(flow.PlacementError, "ps", "worker", "job_name="):
        flow.Server({"ps": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"]})


def test_the_command_says_what_is_wrong(run_program: Callable[..., Any], serve: Callable[..., Any]) -> None:
    """`aioflow serve` ends with code 1 and one line without a traceback; wrong usage with 2."""
    server, address = serve()
    for bind, part in [
        (address, "AddressInUse"),
        ("smoke://x", "ConnectFailed"),
        ("nothing", "ConnectFailed"),
        ("", "ConnectFailed"),
    ]:
        program = run_program("-m", "aioflow", "serve", "--bind", bind)
        assert program.finish() == 1, program.output
        assert program.output.startswith(f"aioflow: {part}: ")
        assert program.output.count("\n") == 1
        assert bind in program.output
    for option, value, part in [("--session-s", "2", "lost_s 3"), ("--lost-s", "1", "heartbeat_s is 1")]:
        program = run_program("-m", "aioflow", "serve", "--bind", address, option, value)
        assert program.finish() == 1, program.output
        assert program.output.startswith("aioflow: SpecMismatch: ")
        assert program.output.count("\n") == 1
        assert part in program.output
    for arguments in (["--no-such-option"], ["--session-s", "long"]):
        program = run_program("-m", "aioflow", "serve", *arguments)
        assert program.finish() == 2
        assert "usage: aioflow" in program.output
    assert server.end_by(2)[0] == 0
