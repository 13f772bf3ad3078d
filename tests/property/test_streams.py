"""Random work on random streams, with failures, cancels and releases at any time, against the same in plain order."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aioflow.devices import CpuDevice, Launch

STREAMS = 3
BOUND_S = 10.0


class Work(NamedTuple):
    """One launch: its stream, what it takes and comes after (by number, of those before it), and what befalls it."""

    stream: int
    sources: list[int]
    after: list[int]
    fails: bool
    is_cancelled: bool
    is_awaited: bool


@st.composite
def programs(draw: st.DrawFn) -> list[Work]:
    """Up to 30 launches."""
    count = draw(st.integers(1, 30))
    rare = st.sampled_from([False] * 7 + [True])
    program: list[Work] = []
    for number in range(count):
        earlier = st.lists(st.integers(0, number - 1), max_size=3) if number else st.just(list[int]())
        program.append(
            Work(
                draw(st.integers(0, STREAMS - 1)),
                draw(earlier),
                draw(earlier),
                draw(rare),
                draw(rare),
                draw(st.booleans()),
            )
        )
    return program


class _Run:
    """A program on a device; what it did."""

    def __init__(self, device: CpuDevice, program: list[Work]) -> None:
        self.called: list[int] = []
        self.results: dict[int, tuple[Any, BaseException | None]] = {}
        self.errors = [ValueError(number) for number in range(len(program))]
        self.launches: list[Launch] = []
        self.cancelled: set[int] = set()
        self._waits = threading.Semaphore(0)
        for number, work in enumerate(program):
            stream = device.streams[work.stream]
            arguments = [self.launches[source] for source in work.sources]
            after = [self.launches[other] for other in work.after]
            launch = stream.launch(self._kernel(number, fails=work.fails), [np.full(8, number), *arguments], after)
            self.launches.append(launch)
            if work.is_awaited:
                stream.when_done(launch, self._callback(number))
            if work.is_cancelled and launch.cancel():
                self.cancelled.add(number)
        for launch in self.launches:
            launch.release()
        for stream in device.streams:  # behind all else
            stream.when_done(stream.launch(lambda: None), self._callback(-1))
        for _ in range(sum(work.is_awaited for work in program) + len(device.streams)):
            assert self._waits.acquire(timeout=BOUND_S)

    def _kernel(self, number: int, *, fails: bool) -> Any:
        def kernel(*values: Any) -> Any:
            self.called.append(number)
            if fails:
                raise self.errors[number]
            return sum(values)

        return kernel

    def _callback(self, number: int) -> Any:
        def called_back(value: Any, error: BaseException | None) -> None:
            assert number not in self.results or number < 0
            self.results[number] = (value, error)
            self._waits.release()

        return called_back


@settings(max_examples=settings().max_examples // 5)  # each starts up to seven threads
@given(programs())
def test_random_work_is_as_in_plain_order(program: list[Work]) -> None:
    """Values and errors are those of the plain order, nothing runs twice or before what it needs, memory comes back."""
    with CpuDevice("/gpu:0", streams=STREAMS) as device:
        run = _Run(device, program)
    values: list[Any] = []
    for number, work in enumerate(program):
        outcome: Any = np.full(8, number)
        inputs = [values[other] for other in (*work.sources, *work.after)]
        failed = next((value for value in inputs if isinstance(value, BaseException)), None)
        if number in run.cancelled:
            outcome = run.launches[number].error
            assert isinstance(outcome, CancelledError)
        elif failed is not None:
            outcome = failed
        elif work.fails:
            outcome = run.errors[number]
        else:
            outcome = sum((values[source] for source in work.sources), outcome)
        values.append(outcome)
        runs = number not in run.cancelled and failed is None
        assert run.called.count(number) == runs
        if runs:
            before = run.called[: run.called.index(number)]
            assert {*work.sources, *work.after} <= set(before)
        if isinstance(outcome, BaseException):
            assert run.launches[number].error is outcome
        if work.is_awaited:
            value, error = run.results[number]
            assert error is run.launches[number].error
            if error is None:
                np.testing.assert_array_equal(outcome, value)
    for stream in range(STREAMS):
        mine = [number for number in run.called if program[number].stream == stream]
        assert mine == sorted(mine)
    assert device.host_waits == sum(work.is_awaited for work in program) + STREAMS
    del run, values
    assert device.memory().held == 0
