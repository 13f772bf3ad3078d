"""Receipts: what a client notes is known to the server, whatever becomes of the client and of its messages."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioflow.cluster import _messages as m
from aioflow.cluster._broker import Broker, TaskInfo
from aioflow.cluster._receipts import PAGE_BYTES, PLACES, Receipts, ReceiptsPage
from tests.unit.cluster.conftest import LOST_S, SESSION_S, Desk

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def page() -> Iterator[ReceiptsPage]:
    page = ReceiptsPage(SECRET)
    yield page
    page.close()


def test_notes_are_read_in_order(page: ReceiptsPage) -> None:
    """The last number of rows of each get; of several at a time each by itself."""
    receipts = Receipts(page.path, SECRET)
    assert page.read() == []
    for request, rows in ((7, 1), (7, 2), (9, 1), (7, 3), (9, 4), (9, 64)):
        receipts.note(request, rows)
    assert page.read() == [(7, 3), (9, 64)]


def test_a_get_has_one_place(page: ReceiptsPage) -> None:
    """However often it is noted, and whatever is noted between: three iterators that take turns need three places."""
    receipts = Receipts(page.path, SECRET)
    for rows in range(1, 2 * PLACES):
        for request in (7, 8, 9):
            receipts.note(request, rows)
    assert page.read() == [(request, 2 * PLACES - 1) for request in (7, 8, 9)]


def test_the_last_gets_are_kept(page: ReceiptsPage) -> None:
    """The place of the oldest get is used anew."""
    receipts = Receipts(page.path, SECRET)
    for request in range(1, 3 * PLACES):
        receipts.note(request, request + 5)
    assert page.read() == [(request, request + 5) for request in range(2 * PLACES, 3 * PLACES)]


def test_what_is_half_written_does_not_count(page: ReceiptsPage) -> None:
    """A place is emptied before another get has it."""
    receipts = Receipts(page.path, SECRET)
    written: list[list[tuple[int, int]]] = []

    class Words:
        """Looks at the page after each write."""

        def __setitem__(self, at: int, value: int) -> None:
            words[at] = value
            written.append(page.read())

    for request in range(1, PLACES + 1):
        receipts.note(request, 5)
    words, receipts._words = receipts._words, Words()  # type: ignore[assignment]
    receipts.note(PLACES + 1, 6)
    old = [(request, 5) for request in range(2, PLACES + 1)]
    assert written == [old, old, [*old, (PLACES + 1, 6)]]


def test_sockets_need_descriptors_more(page: ReceiptsPage) -> None:
    """A page takes none of the upper half of those that are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * _number(page), hard))
    try:
        with pytest.raises(OSError, match="is in use"):
            ReceiptsPage(SECRET)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_system_without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an error that the server knows: the session goes without a page."""
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(OSError, match="has no memfd_create"):
        ReceiptsPage(SECRET)


def test_a_killed_process_has_noted(page: ReceiptsPage) -> None:
    """What stands on the page outlives who wrote it."""
    code = (
        "import os, signal, sys\nfrom aioflow.cluster._receipts import Receipts\n"
        "Receipts(*sys.argv[1:]).note(5, 6)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, page.path, SECRET], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert page.read() == [(5, 6)]


@pytest.mark.parametrize("secret", ["f" * 32, "", SECRET[:-1]])
def test_a_page_of_another_session_is_not_opened(page: ReceiptsPage, secret: str) -> None:
    """A path under /proc may be that of something else."""
    with pytest.raises(OSError, match="is not the page of this session"):
        Receipts(page.path, secret)


def test_only_a_page_is_opened(tmp_path: Path) -> None:
    """A server names a descriptor of a process, and nothing else; one that is gone is an error."""
    file = tmp_path / "file"
    file.write_bytes(SECRET.encode() + bytes(PAGE_BYTES))
    with pytest.raises(OSError, match="is no path of a page"):
        Receipts(str(file), SECRET)
    with file.open("r+b") as opened, pytest.raises(OSError, match="is not the page of this session"):
        Receipts(f"/proc/{os.getpid()}/fd/{opened.fileno()}", SECRET)
    with pytest.raises(OSError, match="No such file"):
        Receipts(f"/proc/{os.getpid()}/fd/999999", SECRET)


def test_neither_side_can_change_the_size(page: ReceiptsPage) -> None:
    """Or the other side would be ended by a SIGBUS."""
    for size in (0, 2 * PAGE_BYTES):
        with pytest.raises(PermissionError):
            os.truncate(page.path, size)


def test_nothing_is_left() -> None:
    """Of a page that was closed, or of a client that has gone."""
    before = _open_files()
    page = ReceiptsPage(SECRET)
    receipts = Receipts(page.path, SECRET)
    page.close()
    receipts.note(1, 1)
    receipts.close()
    assert _open_files() == before


def _number(page: ReceiptsPage) -> int:
    return int(page.path.rpartition("/")[2])


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# The server's use of them


class PageDesk(Desk):
    """A desk whose sessions have pages."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker(
            self.resources, TaskInfo("epoch", "local", 0, (("local", 0, "x://y"),)), LOST_S, SESSION_S, ReceiptsPage
        )

    def greet(self, peer: int) -> m.Welcome:
        """Welcome a session of this host."""
        self.broker.accept(peer, is_local=True)
        welcome: m.Welcome = self.only(self.send(peer, m.Hello(m.PROTOCOL_VERSION, f"secret {peer}")), m.Welcome)
        return welcome


def test_what_was_noted_does_not_go_back() -> None:
    """A consumer was killed before its acknowledgement was sent: only the rest is another's."""
    desk = PageDesk()
    receipts = Receipts(desk.greet(1).receipts, "secret 1")
    desk.greet(2)
    desk.define(1, 2)
    desk.put(2, 1, *range(10))
    for request in (1, 2):
        desk.only(desk.send(1, m.Get(request, 1, 4, False)), m.Rows)
    receipts.note(1, 4)
    receipts.note(2, 1)
    desk.broker.lost(1, desk.now)
    desk.take(2)
    assert desk.send(2, m.Size(2, 1)) == [m.Done(2, 5)]
    desk.broker.shut_down("it ends")


@pytest.mark.parametrize("note", [(0, 0), (1, 0), (1, 2**64 - 1), (2**64 - 1, 1), (77, 1)])
def test_a_wrong_note_harms_nobody(note: tuple[int, int]) -> None:
    """The page of a session is written by its client, which may write anything; it can lose its own rows at most."""
    desk = PageDesk()
    receipts = Receipts(desk.greet(1).receipts, "secret 1")
    desk.greet(2)
    desk.define(1, 2)
    desk.put(2, 1, *range(4))
    desk.only(desk.send(1, m.Get(1, 1, 2, False)), m.Rows)
    receipts.note(*note)
    desk.broker.lost(1, desk.now)
    desk.take(2)
    assert desk.send(2, m.Size(2, 1)) == [m.Done(2, 2 if note == (1, 2**64 - 1) else 4)]
    desk.broker.shut_down("it ends")


def test_a_page_goes_with_its_session() -> None:
    """However the session ends: descriptors do not pile up."""
    before = _open_files()
    desk = PageDesk()
    for peer in (1, 2, 3):
        desk.greet(peer)
    assert _open_files() == before + 3
    desk.send(1, m.Bye())
    desk.broker.lost(2, desk.now)
    desk.broker.shut_down("it ends")
    assert _open_files() == before
