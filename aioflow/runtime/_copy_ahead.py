"""The next batch of an iterator, copied to a device while its consumer works on the last one.

A copy acknowledges nothing: its rows are the queue's until the step in which they are handed over. It is dropped when
its request goes back, and it is of no use when a reconnect took the rows back: those that come then may be others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioflow.errors import DeviceOutOfMemory
from aioflow.runtime._host import hold_get, settle

if TYPE_CHECKING:
    from aioflow.devices import Device
    from aioflow.runtime._devices import Copy, SessionDevices
    from aioflow.runtime._host import Call, Request
    from aioflow.runtime._waiter import Waiter

__all__ = ["CopyAhead"]


class CopyAhead:
    """At most one copy, of the next rows of a request; for one iterator.

    Args:
        devices: The session's.
        device: To which of them.
    """

    def __init__(self, devices: SessionDevices, device: Device) -> None:
        self._devices = devices
        self._device = device
        self._copy: Copy | None = None
        self._request: Request | None = None
        self._answer: Waiter[Any] | None = None  # by which its rows came: another one brings others

    def begin(self, request: Request, count: int) -> bool:
        """Begin to copy the next `count` rows of a request, or what there is, if that is not done; say whether it is.

        Raises:
            AioflowError: The session or the device was closed.
        """
        if self._holds(request):
            return True
        self.drop()
        answer = request.waiter
        left = request.rows_left
        if left:
            self._copy = self._devices.copy(self._device, request.peek(min(count, left)))
            self._request, self._answer = request, answer
        return bool(left)

    def drop(self, request: Request | None = None) -> None:
        """Drop the copy; with a request, only if it is of that one."""
        if self._copy is not None and (request is None or request is self._request):
            self._copy.drop()
            self._copy = self._request = self._answer = None

    async def complete_request(self, request: Request, count: int) -> tuple[Any, ...]:
        """Do as the function of this name does, with the rows on the device."""
        try:
            while True:
                await settle(request)
                is_ahead = self._holds(request)
                if not self.begin(request, count):
                    continue
                assert self._copy is not None
                try:
                    await self._copy.wait()
                except DeviceOutOfMemory:
                    if not is_ahead:
                        raise
                    self.drop()  # what was in its way may be gone by now
                    continue
                if self._holds(request):
                    columns: tuple[Any, ...] = self._copy.take()
                    request.take(columns[0].shape[0])
                    return columns
        except BaseException:
            request.withdraw()
            raise
        finally:
            self.drop()

    async def complete_get(self, call: Call) -> tuple[Any, ...]:
        """Do as the function of this name does, with the rows on the device."""
        columns = await hold_get(call)
        copy: Copy | None = None
        try:
            copy = self._devices.copy(self._device, columns)
            await copy.wait()
            copied: tuple[Any, ...] = copy.take()
        except BaseException:
            if copy is not None:
                copy.drop()
            call.withdraw()
            raise
        call.acknowledge()
        return copied

    def _holds(self, request: Request) -> bool:
        return self._copy is not None and self._request is request and self._answer is request.waiter
