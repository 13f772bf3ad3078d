"""Streams and launches: the same for every device.

A launch is pending until its stream's thread comes to it, then it runs, then it is *issued*: its function has returned
and there is an event for its work, which the device may still be at. Who claims a pending launch first, the thread or a
cancel, decides what becomes of it.
"""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from aioflow.devices._device import map_leaves
from aioflow.devices._worker import Worker
from aioflow.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioflow.devices._device import Device, Engine, Event

__all__ = ["Launch", "Output", "Stream", "close_streams"]


class Launch:
    """One piece of work on a stream; made by `Stream.launch` and `Device.put`.

    Attributes:
        stream: Where it was launched.
        name: For traces and messages.
        error: What it failed with; None while there is nothing. After a cancel `concurrent.futures.CancelledError`.
    """

    __slots__ = ("_call", "_claim", "_event", "_issued", "_uses", "_value", "error", "name", "stream")

    def __init__(self, stream: Stream, name: str, call: _Call) -> None:
        self.stream = stream
        self.name = name
        self.error: BaseException | None = None
        self._call: _Call | None = call
        self._claim = threading.Lock()
        self._issued = threading.Lock()
        self._issued.acquire()
        self._event: Event | None = None
        self._value: Any = None
        self._uses = 1  # whoever launched it; and each launch and wait that needs its value

    @property
    def value(self) -> Any:
        """The value on the device, once the launch has been issued: for work on the same stream, or after a wait.

        Raises:
            DeviceError: It has not been issued, or was released.
            BaseException: What it failed with.
        """
        if self.error is not None:
            raise self.error
        if self._event is None or not self._uses:
            raise DeviceError(f"{self.name!r} has no value: it was {'not issued yet' if self._uses else 'released'}")
        return self._value

    def cancel(self) -> bool:
        """Cancel the launch if it has not begun, and say whether that was so.

        Its function is then never called, and what takes its value fails with `CancelledError`. One that has begun is
        not disturbed.
        """
        if not self._claim.acquire(blocking=False):
            return False
        self.stream.engine.note("cancel", self.name)
        self._finish(None, None, CancelledError(f"{self.name!r} was cancelled before it began"))
        return True

    def release(self) -> None:
        """Say that no later launch and no later wait will need the value; to be called once.

        Those that were made before still get it, and its memory is given back after the last of them.
        """
        self._drop()

    def take(self) -> Any:
        """Return the value for use outside of the device's streams, and release the launch; after a wait only.

        Raises as `value` does.
        """
        value = map_leaves(self.stream.engine.lend, self.value)
        self._drop()
        return value

    def _use(self) -> None:
        with self.stream.lock:
            self._uses += 1

    def _drop(self) -> None:
        with self.stream.lock:
            self._uses -= 1
            value, self._value = self._value, (self._value if self._uses else None)
        del value  # outside of the lock: this may give memory back

    def _finish(self, value: Any, event: Event | None, error: BaseException | None) -> None:
        call, self._call = self._call, None
        self._event, self.error = event, error
        with self.stream.lock:
            self._value = value if self._uses else None
        self._issued.release()
        if call is not None and error is not None:
            for source in call.sources:
                source._drop()  # noqa: SLF001 - one file

    def _wait_issued(self) -> None:
        with self._issued:
            pass


@dataclass(frozen=True, slots=True)
class Output:
    """One of several values of a launch whose function returns a sequence; an argument as the launch itself is."""

    launch: Launch
    index: int

    @property
    def value(self) -> Any:
        """The value on the device; raises as the launch's does."""
        return self.launch.value[self.index]


@dataclass(slots=True)
class _Call:
    """What a launch is to do."""

    function: Callable[..., Any]
    arguments: Sequence[Any]
    sources: list[Launch]  # whose values are arguments, each as often as it is one
    after: list[Launch]
    arrivals: list[Event]


class Stream:
    """Work of a device in an order.

    Args:
        device: Whose stream it is.
        label: For messages, and the names of its threads.
        engine: What its threads work with.
    """

    def __init__(self, device: Device, label: str, engine: Engine) -> None:
        self.device = device
        self.engine = engine
        self.lock = threading.Lock()
        self.host_waits = 0
        self.worker = Worker(label, engine.start)
        self.waiter = Worker(f"{label} waiter", engine.start)
        self.is_closing = False

    def launch(
        self,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        after: Iterable[Launch] = (),
        *,
        name: str = "",
    ) -> Launch:
        """Have a function called with values on the device, after all earlier work of this stream; never waits.

        Args:
            function: Called in the stream's thread; gets arrays of the device and returns such, one or several nested
                in lists, tuples and dicts. It may change no argument that others need.
            args: Launches and outputs of the same device stand for their values. Arrays of the host are moved to the
                device when the launch begins, and may not be changed before it is done; those of strings and objects,
                and all else, are passed as they are. Arguments may be nested in lists, tuples and dicts.
            after: Launches of the same device after which it runs.
            name: For traces and messages.

        Raises:
            DeviceUnavailable: The device was closed.
            ValueError: A launch is of another device.
        """
        leaves: list[Any] = []
        map_leaves(leaves.append, list(args))
        sources = [source for leaf in leaves if (source := _source(leaf)) is not None]
        call = _Call(function, args, sources, list(after), self.engine.arrivals(leaves))
        launch = Launch(self, name or getattr(function, "__name__", "launch"), call)
        if any(other.stream.device is not self.device for other in (*sources, *call.after)):
            raise ValueError(f"{launch.name!r} needs the value of another device: bring it to the host first")
        for source in sources:
            source._use()  # noqa: SLF001
        self.engine.note("launch", launch.name)
        try:
            self.worker.submit(partial(self._run, launch))
        except BaseException:
            for source in sources:
                source._drop()  # noqa: SLF001
            raise
        return launch

    def when_done(
        self,
        launch: Launch | Output,
        callback: Callable[[Any, BaseException | None], object],
        *,
        want_value: bool = True,
    ) -> None:
        """Have a function called when the device has finished a launch of this stream: one host wait.

        Args:
            launch: The launch, or one output of it.
            callback: Called once, in a thread of the device, with the value in memory of the host and None; or with
                None and the error. It returns quickly; what it raises is reported by `threading.excepthook`.
            want_value: Bring the value to the host; without it, the callback gets None in its place.

        Raises:
            DeviceUnavailable: The device was closed.
            ValueError: The launch is of another stream.
        """
        source = launch.launch if isinstance(launch, Output) else launch
        if source.stream is not self:
            raise ValueError(f"{source.name!r} was launched on another stream")
        with self.lock:
            self.host_waits += 1
            source._uses += 1  # noqa: SLF001
        self.engine.note("wait", source.name)
        try:
            self.worker.submit(partial(self._begin_wait, launch, source, callback, want_value=want_value))
        except BaseException:
            source._drop()  # noqa: SLF001
            raise

    def _run(self, launch: Launch) -> None:
        call = launch._call  # noqa: SLF001
        if call is None:
            return  # it was cancelled
        error = next(filter(None, map(_issue_error, (*call.sources, *call.after))), None)
        if error is None and self.is_closing:
            launch.cancel()
            return
        if not launch._claim.acquire(blocking=False):  # noqa: SLF001
            return
        if error is not None:
            self.engine.note("fail", launch.name)
            launch._finish(None, None, error)  # noqa: SLF001
            return
        try:
            kept = self._call(launch, call)
        except BaseException as raised:  # noqa: BLE001 - given to whoever waits
            launch._finish(None, None, _bare(raised))  # noqa: SLF001
            self.engine.note("fail", launch.name)
            del call  # the error's traceback knows this frame
            return
        self.engine.note("end", launch.name)
        event = launch._event  # noqa: SLF001
        assert event is not None
        if kept and not event.is_done:
            self.waiter.submit(partial(_drop_after, event, call.sources, kept))
        else:
            _drop_all(call.sources)

    def _call(self, launch: Launch, call: _Call) -> list[Any]:
        """Call the function; return what must be kept until the device is through: values that it made elsewhere."""
        engine = self.engine
        others = [other for other in (*call.sources, *call.after) if other.stream is not self]
        for event in (*call.arrivals, *(cast("Event", other._event) for other in others)):  # noqa: SLF001
            engine.follow(event)

        def bring(leaf: Any) -> Any:
            return leaf.value if isinstance(leaf, Launch | Output) else engine.put(leaf)

        arguments = map_leaves(bring, list(call.arguments))
        engine.note("begin", launch.name)
        value = engine.run(call.function, arguments, launch.name)
        launch._finish(value, engine.record(), None)  # noqa: SLF001
        return arguments if call.arrivals or others else []

    def _begin_wait(
        self,
        launch: Launch | Output,
        source: Launch,
        callback: Callable[[Any, BaseException | None], object],
        *,
        want_value: bool,
    ) -> None:
        """Begin the copy to the host, in the stream's thread; the waiter waits for its end."""
        source._wait_issued()  # noqa: SLF001 - it was: its turn came before
        error, host, kept, events = source.error, None, list[Any](), list[Any]()
        if error is None:
            events.append(source._event)  # noqa: SLF001
            try:
                if want_value:
                    kept.append(launch.value)
                    host = map_leaves(partial(self._begin_get, source, events), kept[0])
                    del events[: len(events) > 1]  # copies come after it
            except BaseException as raised:  # noqa: BLE001 - given to whoever waits
                error = _bare(raised)
        self.waiter.submit(partial(_end_wait, source, events, kept, host, error, callback))

    def _begin_get(self, source: Launch, events: list[Event], leaf: Any) -> Any:
        host, event = self.engine.get(leaf, events[0], source.name)
        if event is not events[0]:
            events.append(event)
        return host


def close_streams(streams: Iterable[Stream], what: str, bound_s: float) -> None:
    """Cancel what has not begun on any of some streams, wait for what runs, and end their threads.

    Raises:
        DeviceError: Something still ran after the bound.
    """
    end = monotonic() + bound_s
    streams = list(streams)
    for stream in streams:  # all before the first wait: they wait for each other's launches
        stream.is_closing = True
        stream.worker.close()
    ended = [stream.worker.join(end - monotonic()) for stream in streams]
    for stream, has_ended in zip(streams, ended, strict=True):
        if has_ended:  # else it may still have something to wait for
            stream.waiter.close()
    ended += [stream.waiter.join(end - monotonic()) for stream in streams]
    if not all(ended):
        raise DeviceError(f"{what} still worked {bound_s:g} s after its close; a thread of it is left behind")


def _source(leaf: Any) -> Launch | None:
    if isinstance(leaf, Output):
        return leaf.launch
    return leaf if isinstance(leaf, Launch) else None


def _issue_error(launch: Launch) -> BaseException | None:
    """Wait until a launch has been issued, which is no wait for the device; return its error."""
    launch._wait_issued()  # noqa: SLF001
    return launch.error


def _drop_all(sources: list[Launch]) -> None:
    for source in sources:
        source._drop()  # noqa: SLF001


def _drop_after(event: Event, sources: list[Launch], kept: list[Any]) -> None:
    """Drop what a launch used of other streams, once the device is through: their memory may be used anew then."""
    with suppress(Exception):  # whoever waits for the launch is told
        event.wait()
    kept.clear()
    _drop_all(sources)


def _end_wait(
    source: Launch,
    events: list[Event],
    kept: list[Any],
    host: Any,
    error: BaseException | None,
    callback: Callable[[Any, BaseException | None], object],
) -> None:
    try:
        while events and error is None:
            events[0].wait()
            del events[0]
    except BaseException as failed:  # noqa: BLE001 - given to whoever waits
        error = source.error = _bare(failed)
    # Copies read it until here; and whoever is called back finds its memory given back.
    kept.clear()
    events.clear()
    source._drop()  # noqa: SLF001
    callback(None if error is not None else host, error)


def _bare(error: BaseException) -> BaseException:
    """Return an error without what its traceback keeps alive: the locals of frames are arrays, and frames know others.

    What is shown of it begins where this file calls others.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)  # but for those that still run: they let go by themselves
        seen = seen.__cause__
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    error.__traceback__ = frames
    return error
