"""How much of one session a queue may have waiting."""

from __future__ import annotations

import pytest

from aioflow.cluster import _window
from aioflow.cluster._window import Window


def test_a_single_put_is_always_admitted() -> None:
    """Semantics 0.4: one element larger than a limit may enter an empty queue; so may one put larger than a window."""
    window = Window()
    assert window.admits(_window.TWO_PUTS_BYTES_MAX + 1)
    window.add(_window.TWO_PUTS_BYTES_MAX + 1)
    assert not window.admits(0)
    window.remove(_window.TWO_PUTS_BYTES_MAX + 1)
    assert window == Window()


@pytest.mark.parametrize(
    ("nbytes", "more"), [(_window.TWO_PUTS_BYTES_MAX // 2, 0), (_window.BYTES_MAX // 4, 2), (0, _window.PUTS_MAX - 2)]
)
def test_a_window_is_bounded_in_bytes_and_in_puts(nbytes: int, more: int) -> None:
    """Reliability G5: a server's memory stays under its queues' caps + clients x window, and no put exceeds that."""
    window = Window()
    for _ in range(2 + more):
        assert window.admits(nbytes)
        window.add(nbytes)
    assert not window.admits(1)
    window.remove(nbytes)
    assert window.admits(nbytes)
