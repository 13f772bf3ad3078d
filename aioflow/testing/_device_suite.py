"""The conformance suite of devices: what `aioflow.devices` promises, checked against an implementation.

Each check opens a device of its own and bounds every wait; nothing sleeps. Kernels are held by events of Python's, so
that what has begun and what has not is decided by the check.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import numpy as np

from aioflow.devices import Output
from aioflow.errors import DeviceError, DeviceOutOfMemory, DeviceUnavailable
from aioflow.testing._device_stage import Gate, Result, refused, within

if TYPE_CHECKING:
    from aioflow.devices import Device

__all__ = ["DEVICE_CHECKS", "MakeDevice", "check_device"]

MakeDevice = Callable[["int | None"], "Device"]
Check = Callable[[MakeDevice], None]

# Larger than what a pool rounds to, and smaller than any card.
LIMIT = 1 << 20
LARGE = np.ones(LIMIT * 3 // 4, np.uint8)


def check_device(make_device: MakeDevice) -> None:
    """Check a device against all that `aioflow.devices` promises.

    Args:
        make_device: Opens a device with at least two streams, and with a memory limit of so many bytes if there is one.
            The check closes it.
    """
    for check in DEVICE_CHECKS:
        try:
            check(make_device)
        except Exception as error:
            error.add_note(f"in {check.__name__}")
            raise


def launches_of_a_stream_run_in_order(make_device: MakeDevice) -> None:
    """Launches run in the order in which they were made, one at a time, and `launch` waits for none of them."""
    order: list[int] = []
    with make_device(None) as device:
        stream, gate = device.streams[0], Gate()
        stream.launch(gate)
        launches = [stream.launch(lambda number=number: order.append(number)) for number in range(100)]
        assert not order
        gate.opened.set()
        Result(stream, launches[-1]).value()
    assert order == list(range(100))


def streams_overlap(make_device: MakeDevice) -> None:
    """A launch runs while one of another stream does."""
    with make_device(None) as device:
        first, second = Gate(), Gate()
        device.streams[0].launch(first)
        device.streams[1].launch(second)
        for gate in (first, second):
            within(gate.begun, "a launch waits for one of another stream")
        first.opened.set()
        second.opened.set()


def launches_come_after_those_of_other_streams(make_device: MakeDevice) -> None:
    """With `after`, and with another's value as argument, a launch begins when the other has been through."""
    order: list[str] = []

    def note(what: str, value: Any = None) -> Any:
        order.append(what)
        return value

    with make_device(None) as device:
        one, two = device.streams[0], device.streams[1]
        gate = Gate()
        held = one.launch(gate, [np.arange(3)])
        noted = one.launch(note, ["first", held])
        by_after = two.launch(note, ["second"], after=[noted])
        by_value = two.launch(note, ["third", noted])
        within(gate.begun, "the first launch has not begun")
        assert not order
        gate.opened.set()
        np.testing.assert_array_equal([0, 1, 2], Result(two, by_value).value())
        assert order == ["first", "second", "third"]
        assert by_after.error is None


def a_chain_has_one_host_wait(make_device: MakeDevice) -> None:
    """Ten kernels that feed each other, on two streams, give the right value with one host wait."""
    with make_device(None) as device:
        value = device.streams[0].launch(lambda x: x * 2, [np.arange(1000)])
        for number in range(1, 10):
            stream = device.streams[0 if number < 5 else 1]
            following = stream.launch(lambda x: x + 1, [value])
            value.release()
            value = following
        np.testing.assert_array_equal(np.arange(1000) * 2 + 9, Result(device.streams[1], value).value())
        assert device.host_waits == 1


def values_may_be_nested_and_several(make_device: MakeDevice) -> None:
    """Arguments and values are nested in lists, tuples and dicts; an output is one of several; other things pass."""
    with make_device(None) as device:
        stream = device.streams[0]
        pair = stream.launch(lambda x: (x, x + 1), [np.arange(4)])
        seen: list[Any] = []

        def gather(parts: Any, text: Any, number: Any) -> Any:
            seen.extend([text, number])
            return {"sum": parts[0] + parts[1]["more"], "text": text}

        arguments = [[Output(pair, 0), {"more": Output(pair, 1)}], np.array(["a"], object), 7]
        result = Result(stream, stream.launch(gather, arguments)).value()
        np.testing.assert_array_equal([1, 3, 5, 7], result["sum"])
        assert result["text"] is arguments[1]
        assert seen[1] == 7
        np.testing.assert_array_equal([1, 2, 3, 4], Result(stream, Output(pair, 1)).value())
        total = Result(stream, stream.launch(lambda x: x.sum(), [np.arange(4.0)])).value()
        assert float(total) == 6
        assert total.shape == ()


def device_and_host_share_no_memory(make_device: MakeDevice) -> None:
    """What a kernel does to its argument does not reach the host's array, nor what the host does to a result it."""

    def change(x: Any) -> Any:
        x += 1
        return x

    with make_device(None) as device:
        stream = device.streams[0]
        given = np.zeros(5)
        changed = stream.launch(change, [given])
        result = Result(stream, changed).value()
        np.testing.assert_array_equal(np.ones(5), result)
        np.testing.assert_array_equal(np.zeros(5), given)
        result[:] = 7
        np.testing.assert_array_equal(np.ones(5), Result(stream, changed).value())


def shapes_and_strides_survive_copies(make_device: MakeDevice) -> None:
    """Arrays of no dimension and of no element, and views in any order, arrive as they are, both ways."""
    functions: list[Callable[[Any], Any]] = [lambda x: x, lambda x: x.T]
    views = [np.array(3.5), np.zeros((0, 4)), np.arange(24).reshape(2, 3, 4).T, np.arange(10)[::-2], np.array([True])]
    with make_device(None) as device:
        stream = device.streams[0]
        for view in views:
            for function in functions:
                result = Result(stream, stream.launch(function, [view])).value()
                assert result.dtype == view.dtype
                np.testing.assert_array_equal(function(view), result)


def a_failure_reaches_what_depends_on_it(make_device: MakeDevice) -> None:
    """Waits, and launches by value and by `after`, on any stream, get the same error; no function is called."""
    failure = ValueError("of the kernel")
    called: list[str] = []

    def fail() -> None:
        raise failure

    with make_device(None) as device:
        one, two = device.streams[0], device.streams[1]
        failed = one.launch(fail)
        by_value = two.launch(lambda _: called.append("by value"), [failed])
        by_after = one.launch(lambda: called.append("by after"), after=[by_value])
        waits = [Result(one, failed), Result(two, by_value), Result(one, by_after, want_value=False)]
        assert [wait.error() for wait in waits] == [failure] * 3
        assert failed.error is by_after.error is failure
        with refused(ValueError):
            _ = failed.value
        assert not called
        assert Result(one, one.launch(lambda: 5)).value() == 5


def what_has_not_begun_can_be_cancelled(make_device: MakeDevice) -> None:
    """A pending launch is cancelled, with what depends on it; one that runs is not, and is waited for."""
    called: list[int] = []
    with make_device(None) as device:
        stream, gate = device.streams[0], Gate()
        running = stream.launch(gate, [1])
        pending = stream.launch(called.append, [1])
        dependent = stream.launch(called.append, [pending])
        later = stream.launch(lambda: 2)
        within(gate.begun, "the launch has not begun")
        assert not running.cancel()
        assert pending.cancel()
        assert not pending.cancel()
        assert isinstance(pending.error, CancelledError)
        waits = [Result(stream, launch) for launch in (running, pending, dependent, later)]
        gate.opened.set()
        assert waits[0].value() == 1
        assert isinstance(waits[1].error(), CancelledError)
        assert waits[2].error() is waits[1].error()
        assert waits[3].value() == 2
        assert not later.cancel()
        assert not called


def memory_has_a_limit(make_device: MakeDevice) -> None:
    """What does not fit fails with the figures, as an argument and as a value; what is there stays, and room helps."""
    with make_device(LIMIT) as device:
        stream = device.streams[0]
        assert device.memory().limit == LIMIT
        assert device.info().memory_limit == LIMIT
        kept = stream.launch(lambda x: x, [LARGE])
        Result(stream, kept, want_value=False).value()
        held = device.memory().held
        assert LARGE.nbytes <= held <= LIMIT
        for function, arguments in ((lambda x: x, [LARGE]), (lambda x: x + 1, [kept])):
            error = Result(stream, stream.launch(function, arguments)).error()
            assert isinstance(error, DeviceOutOfMemory)
            assert error.asked >= LARGE.nbytes
            assert error.held >= LARGE.nbytes
            assert error.limit == LIMIT
            for figure in (error.asked, error.held, error.limit):
                assert f"{figure:,}" in str(error)
        np.testing.assert_array_equal(LARGE, Result(stream, kept).value())
        kept.release()
        np.testing.assert_array_equal(LARGE, Result(stream, stream.launch(lambda x: x, [LARGE])).value())


def a_value_lives_until_its_last_use(make_device: MakeDevice) -> None:
    """A released value still reaches the launches and waits that were made before, on any stream; then it is gone."""
    with make_device(None) as device:
        one, two = device.streams[0], device.streams[1]
        before = device.memory().held
        gate = Gate()
        value = one.launch(gate, [LARGE])
        uses = [(stream, stream.launch(lambda x: x[:8] + 1, [value])) for stream in (one, two)]
        waits = [Result(one, value), *(Result(stream, use) for stream, use in uses)]
        value.release()
        for _, use in uses:
            use.release()
        gate.opened.set()
        np.testing.assert_array_equal(LARGE, waits[0].value())
        for wait in waits[1:]:
            np.testing.assert_array_equal(np.full(8, 2), wait.value())
        with refused(DeviceError):
            _ = value.value
        # Behind these nothing is under way on either stream, nor in what waits for it.
        for stream in (one, two):
            Result(stream, stream.launch(lambda: None), want_value=False).value()
        assert device.memory().held <= before


def a_cancelled_launch_holds_nothing(make_device: MakeDevice) -> None:
    """A cancel lets go of the arguments at once."""
    with make_device(LIMIT) as device:
        one, two, gate = device.streams[0], device.streams[1], Gate()
        value = one.launch(lambda x: x, [LARGE])
        Result(one, value, want_value=False).value()
        two.launch(gate)
        pending = two.launch(lambda x: x + 1, [value])
        value.release()
        assert device.memory().held >= LARGE.nbytes
        assert pending.cancel()
        assert device.memory().held < LARGE.nbytes
        gate.opened.set()


def copies_run_beside_the_streams(make_device: MakeDevice) -> None:
    """`put` brings nested arrays to the device while streams are busy; launches take them, and so does the user."""
    with make_device(None) as device:
        stream, gate = device.streams[0], Gate()
        stream.launch(gate)
        put = device.put({"x": np.arange(5), "text": "as it is"})
        Result(put.stream, put, want_value=False).value()
        total = stream.launch(lambda value: value["x"] * 2, [put])
        gate.opened.set()
        np.testing.assert_array_equal([0, 2, 4, 6, 8], Result(stream, total).value())
        taken = put.take()
        assert taken["text"] == "as it is"
        again = stream.launch(lambda x: x + 1, [taken["x"]])
        np.testing.assert_array_equal([1, 2, 3, 4, 5], Result(stream, again).value())
        with refused(DeviceError):
            _ = put.value


def launches_of_another_device_arerefused(make_device: MakeDevice) -> None:
    """A value of another device is no argument, and a wait is for launches of the stream; nothing is run."""
    with make_device(None) as device, make_device(None) as other:
        theirs = other.streams[0].launch(lambda: 1)
        with refused(ValueError):
            device.streams[0].launch(lambda x: x, [theirs])
        with refused(ValueError):
            device.streams[0].launch(lambda: 1, after=[theirs])
        with refused(ValueError):
            other.streams[1].when_done(theirs, lambda *_: None)
        assert other.host_waits == 0


def a_close_cancels_waits_and_ends_threads(make_device: MakeDevice) -> None:
    """It waits for what runs, cancels the rest, calls every wait back once, and leaves no thread; then calls fail."""
    threads = set(threading.enumerate())
    device = make_device(None)
    one, two, gate = device.streams[0], device.streams[1], Gate()
    running = one.launch(gate, [3])
    pending = one.launch(lambda: 4)
    elsewhere = two.launch(lambda x: x, [pending])
    waits = [Result(one, running), Result(one, pending), Result(two, elsewhere)]
    within(gate.begun, "the launch has not begun")
    with refused(DeviceError):
        device.close(0.01)
    gate.opened.set()
    device.close()
    device.close()
    assert waits[0].value() == 3
    assert isinstance(waits[1].error(), CancelledError)
    assert waits[2].error() is waits[1].error()
    assert [wait.calls for wait in waits] == [1, 1, 1]
    assert {thread.name for thread in set(threading.enumerate()) - threads} == set()
    with refused(DeviceUnavailable):
        one.launch(lambda: 5)
    with refused(DeviceUnavailable):
        one.when_done(running, lambda *_: None)
    with refused(DeviceUnavailable):
        device.put(np.zeros(1))


def threads_start_when_they_are_needed(make_device: MakeDevice) -> None:
    """A device that is not used has no thread; launches start one for their stream, a wait a second."""
    threads = set(threading.enumerate())
    with make_device(None) as device:
        names = {thread.name for thread in set(threading.enumerate()) - threads}
        assert not [name for name in names if str(device.name) in name]
        stream = device.streams[0]
        launch = stream.launch(lambda: 1)
        counts = [sum(str(device.name) in thread.name for thread in set(threading.enumerate()) - threads)]
        Result(stream, launch).value()
        counts.append(sum(str(device.name) in thread.name for thread in set(threading.enumerate()) - threads))
        assert counts == [1, 2]


DEVICE_CHECKS: tuple[Check, ...] = (
    launches_of_a_stream_run_in_order,
    streams_overlap,
    launches_come_after_those_of_other_streams,
    a_chain_has_one_host_wait,
    values_may_be_nested_and_several,
    device_and_host_share_no_memory,
    shapes_and_strides_survive_copies,
    a_failure_reaches_what_depends_on_it,
    what_has_not_begun_can_be_cancelled,
    memory_has_a_limit,
    a_value_lives_until_its_last_use,
    a_cancelled_launch_holds_nothing,
    copies_run_beside_the_streams,
    launches_of_another_device_arerefused,
    a_close_cancels_waits_and_ends_threads,
    threads_start_when_they_are_needed,
)
