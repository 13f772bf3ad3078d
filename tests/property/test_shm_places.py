"""Places of any size in one segment: never two at one place, and none of the room is lost."""

from __future__ import annotations

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from aioflow_shm._limits import ALIGN_BYTES
from aioflow_shm._places import AnySegment, Segment, recut

SIZE = 10_000 // ALIGN_BYTES * ALIGN_BYTES


@given(steps=st.lists(st.one_of(st.integers(1, SIZE), st.integers(-9, -1)), max_size=60), was_other=...)
def test_places_of_any_size(steps: list[int], was_other: bool) -> None:
    """Whatever comes and goes: a number above 0 is the size of what comes, one below says which goes."""
    segment: Segment = AnySegment(1, SIZE, SIZE, deque())
    if was_other:
        whole = Segment(1, SIZE // 2, SIZE, deque())
        whole.map()
        segment = recut(whole, segment.kind, 64)
    held: list[tuple[int, int]] = []
    for step in steps:
        if step < 0 and held:
            start, _ = held.pop(step % len(held))
            segment.give_back(start)
        elif step > 0:
            room, begin = 0, 0
            for start, end in [*sorted(held), (SIZE, SIZE)]:
                room, begin = max(room, start - begin), -(-end // ALIGN_BYTES) * ALIGN_BYTES
            assert segment.has_room(step) == (step <= room)
            if step <= room:
                start = segment.take(step)
                assert start % ALIGN_BYTES == 0
                assert start + step <= SIZE
                assert all(start + step <= first or end <= start for first, end in held)
                held.append((start, start + step))
    assert segment.is_unused == (was_other and not held)
    for start, _ in held:
        segment.give_back(start)
    assert segment.has_room(SIZE)


@given(size=st.integers(1, SIZE), place_bytes=st.integers(1, SIZE))
def test_places_of_one_size_lie_within_the_segment(size: int, place_bytes: int) -> None:
    """As many as there is room for, also in one that had others before."""
    if place_bytes > size:
        return
    whole = Segment(1, size, size, deque())
    whole.map()
    anew = recut(whole, place_bytes, place_bytes)
    starts = [anew.take(place_bytes) for _ in range(size // place_bytes)]
    assert not anew.has_room(place_bytes)
    assert sorted(starts) == [*range(0, len(starts) * place_bytes, place_bytes)]
    assert max(starts) + place_bytes <= size
