"""What is held is counted exactly, and page-locked buffers stay within their bound."""

from __future__ import annotations

import numpy as np
import pytest

from aioflow.devices import Memory
from aioflow.devices._memory import Accounts, PinnedPool
from aioflow.errors import DeviceOutOfMemory


def test_an_array_is_held_until_the_last_view_is_gone() -> None:
    """Also when it is accounted for twice, by itself or by a view."""
    accounts = Accounts("gpu", 100)
    array = np.zeros(10)
    view = array[2:4]
    accounts.hold(array)
    accounts.hold(view)
    assert accounts.memory == Memory(80, 100)
    assert accounts.holds(view)
    assert not accounts.holds(np.zeros(10))
    del array
    assert accounts.memory.held == 80
    del view
    assert accounts.memory.held == 0


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    """What is held stays; room that was made is seen."""
    accounts = Accounts("/gpu:0", 100)
    array = np.zeros(10)
    accounts.hold(array)
    with pytest.raises(
        DeviceOutOfMemory, match="/gpu:0: 24 bytes were asked for, 80 are held, the limit is 100"
    ) as caught:
        accounts.hold(np.zeros(3))
    assert (caught.value.asked, caught.value.held, caught.value.limit) == (24, 80, 100)
    accounts.hold(other := np.zeros(2))
    assert accounts.memory.held == 96
    del array, other, caught
    accounts.hold(np.zeros(12))
    assert accounts.memory.held == 0


def test_many_arrays_come_and_go() -> None:
    """Also when an array gets the address of one that is gone."""
    accounts = Accounts("gpu", None)
    for _ in range(1000):
        accounts.hold(np.zeros(16))
    kept = [np.zeros(16) for _ in range(100)]
    for array in kept:
        accounts.hold(array)
    assert accounts.memory == Memory(100 * 128, None)


def test_buffers_are_used_again() -> None:
    """One of the same size class serves; sizes are powers of two, from a page on."""
    made: list[int] = []

    def allocate(size: int) -> bytearray:
        made.append(size)
        return bytearray(size)

    pool = PinnedPool(allocate, 1 << 20)
    first = pool.take(5000)
    assert first is not None
    assert first[0] == 8192
    pool.give(*first)
    assert pool.take(8192) == first
    assert pool.take(1) is not None
    assert made == [8192, 4096]
    assert pool.bytes == 8192 + 4096


def test_buffers_have_a_bound() -> None:
    """Kept ones make room for others; where those in use fill the bound there is none."""
    pool = PinnedPool(bytearray, 16384)
    small = [pool.take(4096) for _ in range(4)]
    assert pool.take(4096) is None
    for buffer in small:
        assert buffer is not None
        pool.give(*buffer)
    assert pool.take(16384) is not None
    assert pool.bytes == 16384
    assert pool.take(1) is None
    assert PinnedPool(bytearray, 100).take(1) is None


def test_a_failed_allocation_takes_nothing_of_the_bound() -> None:
    """What it raises goes on."""

    def allocate(size: int) -> bytearray:
        raise MemoryError(size)

    pool = PinnedPool(allocate, 1 << 20)
    with pytest.raises(MemoryError):
        pool.take(1)
    assert pool.bytes == 0


def test_a_cleared_pool_keeps_count_of_what_is_in_use() -> None:
    """Kept buffers go; one that is given back later is kept again."""
    pool = PinnedPool(bytearray, 1 << 20)
    used, kept = pool.take(4096), pool.take(8192)
    assert used is not None
    assert kept is not None
    pool.give(*kept)
    pool.clear()
    assert pool.bytes == 4096
    pool.give(*used)
    pool.clear()
    assert pool.bytes == 0
