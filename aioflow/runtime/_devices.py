"""The devices of one session, and what is on its way to them."""

from __future__ import annotations

import logging
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from aioflow.devices import open_devices
from aioflow.errors import DeviceError, DeviceUnavailable, SessionClosed
from aioflow.runtime._inbox import Inbox
from aioflow.runtime._waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioflow.devices import Device, GPUOptions, Launch, OpenDevices
    from aioflow.names import DeviceName

__all__ = ["Copy", "SessionDevices", "open_in_thread"]

logger = logging.getLogger("aioflow.session")


class SessionDevices:
    """The devices of one session.

    Args:
        opened: The devices; closed with it.

    Attributes:
        devices: All of them.
        inbox: Where their threads tell what they have done.
    """

    def __init__(self, opened: OpenDevices) -> None:
        self.devices = opened.devices
        self.inbox = Inbox()
        self._opened = opened
        self._copies: set[Copy] = set()
        self._is_closed = False

    def find(self, name: DeviceName) -> Device:
        """Return the device of a name, as `OpenDevices.find` does."""
        return self._opened.find(name)

    def copy(self, device: Device, value: Any) -> Copy:
        """Begin to copy the arrays of a value to a device; one host wait.

        Raises:
            SessionClosed: The session was closed.
            DeviceUnavailable: The device was closed.
        """
        if self._is_closed:
            raise SessionClosed("the session was closed; open a new one")
        launch = device.put(value)
        copy = Copy(launch, self._copies.discard)
        self._copies.add(copy)
        try:
            launch.stream.when_done(launch, lambda _, error: self.inbox.post(copy.end, error), want_value=False)
        except BaseException:
            copy.drop()
            raise
        return copy

    async def close(self) -> None:
        """Drop the copies, and close the devices that were opened for the session; bounded."""
        self._is_closed = True
        for copy in list(self._copies):
            copy.drop()
        self.inbox.close()
        if any(device.streams for device in self._opened.own):
            await anyio.to_thread.run_sync(self._close_devices)

    def _close_devices(self) -> None:
        try:
            self._opened.close()
        except DeviceError as error:
            logger.warning("%s", error)


async def open_in_thread(job: str, task: int, options: GPUOptions) -> SessionDevices:
    """Open the devices of a task, while the event loop goes on: the first time CuPy is imported."""
    opened = partial(open_devices, job, task, gpu_options=options)
    return SessionDevices(await anyio.to_thread.run_sync(opened))


class Copy:
    """A value on its way to a device; to be taken or dropped, and dropped by the session when it is closed."""

    __slots__ = ("_forget", "_launch", "_waiter")

    def __init__(self, launch: Launch, forget: Callable[[Copy], None]) -> None:
        self._waiter: Waiter[None] = Waiter()
        self._launch: Launch | None = launch
        self._forget = forget

    def end(self, error: BaseException | None) -> None:
        """Learn that the device is through with it."""
        if error is None:
            self._waiter.resolve(None)
        elif isinstance(error, CancelledError):
            self._waiter.fail(DeviceUnavailable("the device was closed while a batch was to be copied to it"))
        else:
            self._waiter.fail(error)

    async def wait(self) -> None:
        """Wait until the value is on the device; a cancelled wait leaves the copy as it is.

        Raises:
            DeviceOutOfMemory: The device's limit did not allow for it.
            DeviceError: The device failed, or was closed.
            SessionClosed: The session was closed.
        """
        await self._waiter.wait()

    def take(self) -> Any:
        """Return the value, with its arrays on the device and ready; after a wait only.

        Raises:
            SessionClosed: The session was closed since.
        """
        launch, self._launch = self._launch, None
        if launch is None:
            raise _closed()
        self._forget(self)
        return launch.take()

    def drop(self) -> None:
        """Let go of the value, and cancel the copy if it has not begun; whoever waits gets `SessionClosed`."""
        launch, self._launch = self._launch, None
        if launch is not None:
            self._forget(self)
            self._waiter.fail(_closed())
            launch.cancel()
            launch.release()


def _closed() -> SessionClosed:
    return SessionClosed("the session was closed while a batch was copied to a device")
