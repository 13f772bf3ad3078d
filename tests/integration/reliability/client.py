"""A producer or a consumer that runs in a process of its own, and what it has written down so far."""

from __future__ import annotations

import signal
import subprocess
import threading
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from tests.integration.reliability.checker import Verdict, check_total

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.integration.conftest import Program

# What no test measures takes less than this.
BOUND_S = 20.0

_WORDS = {"ready", "try", "in", "out", "reset", "end"}


@dataclass(frozen=True)
class Record:
    """One line: what happened, when (the clock is the computer's), and to which elements."""

    what: str
    time: float
    words: tuple[str, ...]


class Client:
    """A program whose lines are read as they come."""

    def __init__(self, program: Program, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self._program = program
        self._text = ""
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, name=f"reader of {name}")
        self._reader.start()

    @property
    def process(self) -> subprocess.Popen[str]:
        """Its process."""
        return self._program.process

    def elements(self, what: str) -> list[str]:
        """Return the elements of all lines of a kind."""
        return [word for record in list(self.records) if record.what == what for word in record.words]

    def count(self, what: str) -> int:
        """Return how many lines of a kind there are."""
        return sum(record.what == what for record in list(self.records))

    def wait_for(
        self, what: str, count: int = 1, *, since: float = 0.0, within_s: float = BOUND_S, until: float | None = None
    ) -> float:
        """Wait for so many lines of a kind that were written after a time; return the time of the last.

        It fails when they are not there `within_s` from now, or do not bear a time before `until`.
        """
        times: list[float] = []
        end = monotonic() + within_s
        read = 0
        with self._changed:
            while True:
                new, read = self.records[read:], len(self.records)
                times += [record.time for record in new if record.what == what and record.time > since]
                if len(times) >= count:
                    break
                assert not self._has_ended, (
                    f"{self.name} has ended after {len(times)} of {count} {what!r}\n{self._text}"
                )
                assert self._changed.wait(end - monotonic()), (
                    f"{self.name}: {len(times)} of {count} {what!r} came within {within_s} s\n{self._text}"
                )
        last = times[count - 1]
        assert until is None or last <= until, f"{self.name}: {what!r} came {last - until:.3f} s late"
        return last

    def tell_to_end(self) -> None:
        """Have a producer leave (SIGTERM)."""
        self._program.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, if it still runs, and read what it has written."""
        self._program.kill()
        self._reader.join()

    def finish(self, within_s: float = BOUND_S) -> None:
        """Wait for its end, which must be a good one."""
        self._reader.join(within_s)
        last = f"at {monotonic():.1f}, last were {self.records[-3:]}"
        assert not self._reader.is_alive(), f"{self.name} did not end; {last}\n{self._text}"
        assert self._program.process.wait(BOUND_S) == 0, f"{self.name} failed\n{self._text}"

    def _read(self) -> None:
        assert self._program.process.stdout is not None
        for line in self._program.process.stdout:
            word, *rest = line.split() or [""]
            with self._changed:
                if word in _WORDS:
                    self.records.append(Record(word, float(rest[0]), tuple(rest[1:])))
                else:
                    self._text += line
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()


def judge(clients: Collection[Client]) -> Verdict:
    """Compare what clients put with what they took."""
    everyone = list(clients)
    attempted, accepted, dequeued = (
        [element for client in everyone for element in client.elements(what)] for what in ("try", "in", "out")
    )
    return check_total(attempted, accepted, dequeued)


def all_flow(clients: Collection[Client], *, since: float, until: float) -> float:
    """Wait until each client has put or taken something after `since`; return the time by which all had."""
    times = [
        client.wait_for("in" if client.name.startswith("producer") else "out", since=since, until=until)
        for client in clients
    ]
    return max(times, default=since)


def end_all(producers: Collection[Client], consumers: Collection[Client], within_s: float = BOUND_S) -> None:
    """Have the producers leave, and the consumers take what is left and end by that."""
    for producer in producers:
        producer.tell_to_end()
    failures: list[str] = []
    for client in (*producers, *consumers):
        try:
            client.finish(0 if failures else within_s)
        except AssertionError as failure:  # the others tell what it waits for
            failures.append(str(failure))
    assert not failures, "\n".join(failures)
