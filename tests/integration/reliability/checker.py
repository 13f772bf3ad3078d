"""The total-queue checker: what went in against what came out, each element counted.

attempted, accepted and dequeued are what the clients wrote down; what follows from them:

* lost: accepted and never dequeued;
* unexpected: dequeued and never attempted;
* duplicated: dequeued more often than attempted;
* recovered: dequeued although nobody was told that it was accepted, as happens to a producer that is killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Verdict:
    """How often each element was what."""

    lost: Counter[Hashable]
    unexpected: Counter[Hashable]
    duplicated: Counter[Hashable]
    recovered: Counter[Hashable]

    def __str__(self) -> str:
        counts = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {part.total()} {sorted(map(str, part))[:20]}" for name, part in counts.items())

    @property
    def is_faultless(self) -> bool:
        """Whether everything accepted came out, once, and nothing else did."""
        return not (self.lost or self.unexpected or self.duplicated)


def check_total(attempted: Iterable[Hashable], accepted: Iterable[Hashable], dequeued: Iterable[Hashable]) -> Verdict:
    """Compare them."""
    tried, was_in, out = Counter(attempted), Counter(accepted), Counter(dequeued)
    extra = out - tried
    unexpected = Counter({element: count for element, count in extra.items() if element not in tried})
    return Verdict(was_in - out, unexpected, extra - unexpected, (out & tried) - was_in)


def unexplained(missing: Iterable[Hashable], suspects: Collection[tuple[Collection[Hashable], int]]) -> set[Hashable]:
    """Return the elements that no suspect accounts for.

    Args:
        missing: What has to be accounted for.
        suspects: What each could have had, and how many elements at most.
    """
    places = [could_have for could_have, most in suspects for _ in range(most)]
    taken: dict[int, Hashable] = {}

    def find_place(element: Hashable, seen: set[int]) -> bool:
        for place, could_have in enumerate(places):
            if place not in seen and element in could_have:
                seen.add(place)
                if place not in taken or find_place(taken[place], seen):
                    taken[place] = element
                    return True
        return False

    return {element for element in missing if not find_place(element, set())}
