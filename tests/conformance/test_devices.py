"""The CPU backend keeps the promises of `aioflow.devices`; `tests/gpu` has the same for CUDA devices."""

from __future__ import annotations

import pytest

from aioflow.devices import CpuDevice, Memory
from aioflow.testing._device_suite import DEVICE_CHECKS, Check, check_device


def _make(memory_limit: int | None) -> CpuDevice:
    return CpuDevice("/gpu:0", streams=2, memory_limit=memory_limit)


@pytest.mark.parametrize("check", DEVICE_CHECKS, ids=lambda check: check.__name__)
def test_cpu_device(check: Check) -> None:
    """One check of the conformance suite holds."""
    check(_make)


def test_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check_device` runs every check, and names the one that failed."""
    check_device(_make)
    monkeypatch.setattr(CpuDevice, "memory", lambda _: Memory(0, None))
    with pytest.raises(AssertionError) as caught:
        check_device(_make)
    assert caught.value.__notes__ == ["in memory_has_a_limit"]
