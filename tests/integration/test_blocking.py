"""Blocking sessions on a server: with loaders in other processes, Ctrl-C, timeouts, garbage collection and forks."""

from __future__ import annotations

import gc
import itertools
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import aioflow as flow
from aioflow import blocking

pytestmark = pytest.mark.timeout(60)

TEST_S = 20.0
INTERRUPTED_S = 2.0  # within which a program has ended after a Ctrl-C

q = flow.FIFOQueue(4, "int64", (), shared_name="q")
large = flow.FIFOQueue(64, "int64", (), shared_name="large")


@pytest.fixture
def address(serve: Callable[..., tuple[Any, str]]) -> Iterator[str]:
    """The address of a server, which ends well."""
    server, bound = serve()
    yield bound
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def _until(session: blocking.Session, queue: flow.Queue, **expected: Any) -> None:
    end = monotonic() + TEST_S
    while True:
        stats = session.stats(queue)
        if all(getattr(stats, name) == value for name, value in expected.items()):
            return
        assert monotonic() < end, f"expected {expected}, the last was {stats}"


def test_a_loader_in_another_process(address: str, run_program: Callable[..., Any]) -> None:
    """Both sides blocking; all arrives, in order, and the iteration ends with the loader."""
    loader = run_program(
        """
        import aioflow as flow
        from aioflow import blocking
        q = flow.FIFOQueue(4, "int64", (), shared_name="q")
        with blocking.Session() as s, s.producer(q), s.writer(q) as writer:
            for i in range(1000):
                writer.write(i)
        """,
        target=address,
    )
    with blocking.Session(address) as session:
        assert [int(i) for batch in session.batches(q, 3) for i in batch] == list(range(1000))
    assert loader.finish() == 0, loader.output


WAITS = {
    "dequeue": "with session: waits(); session.dequeue(q)",
    "dequeue_many": "with session: waits(); session.dequeue_many(q, 3)",
    "batches": "with session: [waits() for batch in session.batches(q, 1) if batch == 2]",
    "enqueue": "with session: waits(); [session.enqueue(q, i) for i in range(9)]",
    "writer": "with session, session.producer(q), session.writer(q) as w: waits(); [w.write(i) for i in range(999)]",
}
WAITING = """
    import aioflow as flow
    from aioflow import blocking
    q = flow.FIFOQueue(4, "int64", (), shared_name="q")
    session = blocking.Session()
    def waits():
        print("waits")
    try:
        WAIT
    except KeyboardInterrupt:
        print("interrupted")
    """


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait(address: str, run_program: Callable[..., Any], wait: str) -> None:
    """At once, as KeyboardInterrupt; what was taken is back, and nothing is said beside."""
    with blocking.Session(address) as session:
        if wait == "batches":
            session.enqueue_many(q, [1, 2])
        elif wait == "dequeue_many":
            session.enqueue(q, 1)
        running = run_program(WAITING.replace("WAIT", WAITS[wait]), target=address)
        assert running.read_line() == "waits"
        if wait in {"dequeue", "dequeue_many", "batches"}:
            _until(session, q, gets_waiting=1)
        elif wait in {"enqueue", "writer"}:
            _until(session, q, size=4)
        code, seconds = running.end_by(signal.SIGINT)
        assert code == 0, running.output
        assert seconds < INTERRUPTED_S
        assert running.output == "waits\ninterrupted\n"
        left = {"dequeue_many": 1, "enqueue": 4, "writer": 4}.get(wait, 0)
        _until(session, q, size=left, gets_waiting=0, puts_waiting=0, unacknowledged=0, ahead=0, producers=())


def test_ctrl_c_ends_an_open(run_program: Callable[..., Any], folder: Path) -> None:
    """Of a session whose server does not say a word."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/silent")
        listener.listen()
        running = run_program(WAITING.replace("WAIT", "session.open()"), target=f"ipc://{folder}/silent")
        connection, _ = listener.accept()
        with connection:
            code, seconds = running.end_by(signal.SIGINT)
    (folder / "silent").unlink()
    assert (code, running.output) == (0, "interrupted\n")
    assert seconds < INTERRUPTED_S


INTERRUPTS = """
    import contextlib, random, signal, threading
    import aioflow as flow
    from aioflow import blocking
    large = flow.FIFOQueue(64, "int64", (), shared_name="large")
    main = threading.main_thread().ident
    armed, ended, interrupts, taken = False, threading.Event(), 0, []

    def interrupt(*_):
        global armed
        if armed:  # once in each call, at any point of it
            armed = False
            raise KeyboardInterrupt
    signal.signal(signal.SIGINT, interrupt)

    def send():
        spans = random.Random(0)
        while not ended.wait(spans.random() * 0.005):
            signal.pthread_kill(main, signal.SIGINT)

    def dequeue():
        global armed
        armed = True
        element = session.dequeue(large)
        armed = False
        return element

    sender = threading.Thread(target=send)
    # The last call may succeed in the moment of an interrupt, which the end of the session raises then.
    with contextlib.suppress(KeyboardInterrupt), blocking.Session() as session:
        sender.start()
        while len(taken) < 1000:
            try:
                taken.append(int(dequeue()))
            except KeyboardInterrupt:
                interrupts += 1
        armed = False
        ended.set()
        sender.join()
    print(taken == list(range(1000)), interrupts > 20)
    """


def test_interrupts_lose_nothing(address: str, run_program: Callable[..., Any]) -> None:
    """One in every few calls, at any point of it: every element comes out once, in order."""
    consumer = run_program(INTERRUPTS, target=address)
    with blocking.Session(address) as session, session.writer(large) as writer:
        for i in range(1000):
            writer.write(i)
    assert consumer.finish() == 0, consumer.output
    assert consumer.output == "True True\n"


def test_timeouts_lose_nothing(address: str) -> None:
    """Puts and gets of several threads, each within 0 to 5 ms or tried again: each element comes out once."""
    each, producers = 100, 4
    timeouts = [0]

    def put(first: int) -> None:
        spans = random.Random(first)
        for i in range(first, first + each):
            while True:
                try:
                    session.enqueue(q, i, timeout=spans.random() * 0.005)
                    break
                except TimeoutError:
                    timeouts[0] += 1

    def get(seed: int) -> list[int]:
        spans, taken = random.Random(seed), list[int]()
        while True:
            try:
                taken.append(int(session.dequeue(q, timeout=spans.random() * 0.005)))
            except TimeoutError:
                timeouts[0] += 1
            except flow.EndOfQueue:
                return taken

    with blocking.Session(address) as session, ThreadPoolExecutor(2 * producers) as pool:
        puts = [pool.submit(put, n * each) for n in range(producers)]
        gets = [pool.submit(get, n) for n in range(producers)]
        for done in puts:
            done.result()
        session.close_queue(q)
        assert sorted(itertools.chain(*(done.result() for done in gets))) == list(range(each * producers))
    assert timeouts[0] > 50


@pytest.mark.parametrize("how", ["break", "del", "with", "error", "collected elsewhere"])
def test_what_is_held_ahead_is_given_back(address: str, how: str) -> None:
    """However the iterator is left; in order."""
    with blocking.Session(address) as session:
        session.enqueue_many(large, range(20))
        _leave(session, how)
        _until(session, large, size=18, ahead=0, unacknowledged=0)
        assert session.dequeue_many(large, 18).tolist() == list(range(2, 20))


def _leave(session: blocking.Session, how: str) -> None:
    match how:
        case "break":
            for _ in session.batches(large, 2, prefetch=3):
                break
        case "del":
            batches = session.batches(large, 2, prefetch=3)
            next(batches)
            del batches
        case "with":
            with session.batches(large, 2, prefetch=3) as batches:
                next(batches)
        case "error":
            with pytest.raises(ValueError, match="body"):
                for _ in session.batches(large, 2, prefetch=3):
                    raise ValueError("body")
        case _:
            cycle: list[Any] = [session.batches(large, 2, prefetch=3)]
            next(cycle[0])
            cycle.append(cycle)
            del cycle
            collector = threading.Thread(target=gc.collect)
            collector.start()
            collector.join()


def test_a_forgotten_session_is_closed_at_the_exit(address: str, run_program: Callable[..., Any]) -> None:
    """The program ends without a word; what it held is back, and what it had buffered is there."""
    program = run_program(
        "-Xdev",
        "-c",
        "import aioflow as flow\n"
        "from aioflow import blocking\n"
        'large = flow.FIFOQueue(64, "int64", (), shared_name="large")\n'
        "session = blocking.Session().open()\n"
        "session.enqueue_many(large, range(20))\n"
        "batches = session.batches(large, 2)\n"
        "next(batches)\n"
        "writer = session.writer(large, delay_s=60).__enter__()\n"
        "writer.write(20)\n",
        target=address,
    )
    assert program.finish() == 0
    assert program.output == ""
    with blocking.Session(address) as session:
        assert session.dequeue_many(large, 19, timeout=TEST_S).tolist() == list(range(2, 21))


def test_a_forked_child_is_refused(address: str, run_program: Callable[..., Any]) -> None:
    """It is told to open a session of its own, may do so, and leaves its parent's alone."""
    program = run_program(
        "-Xdev",
        "-c",
        "import os, sys, aioflow as flow\n"
        "from aioflow import blocking\n"
        'large = flow.FIFOQueue(64, "int64", (), shared_name="large")\n'
        "with blocking.Session() as session, session.producer(large), session.writer(large) as writer:\n"
        "    session.enqueue_many(large, range(20))\n"
        "    batches = session.batches(large, 2)\n"
        "    next(batches)\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        for call in (lambda: session.dequeue(large), lambda: next(batches), lambda: writer.write(1)):\n"
        "            try: call()\n"
        "            except flow.SessionError as error: print('opened before a fork' in str(error))\n"
        "        del batches\n"
        "        with blocking.Session() as own: print(own.dequeue(large))\n"
        "        sys.exit(0)\n"
        "    print(os.waitpid(child, 0)[1])\n"
        "    print([int(i) for i in next(batches)])\n",
        target=address,
    )
    assert program.finish() == 0, program.output
    assert program.output.split() == ["True", "True", "True", "2", "0", "[3,", "4]"]  # 2 was recalled for the child
