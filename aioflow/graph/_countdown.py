"""Dependency counting: which nodes of a step are ready.

1. A node is ready when all that it waits for has finished, and is named ready once.
2. Finishing a node costs as much as it has successors, whatever the size of the graph.
3. What is never finished (it failed, or was cancelled) keeps its successors from becoming ready.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Countdown"]


class Countdown:
    """The pending counts of one step.

    Args:
        pending: For each node, how many others it waits for.
        successors: For each node, those that wait for it, each once.

    Attributes:
        left: How many nodes have not finished.
    """

    __slots__ = ("_pending", "_successors", "left")

    def __init__(self, pending: Sequence[int], successors: Sequence[Sequence[int]]) -> None:
        self._pending = list(pending)
        self._successors = successors
        self.left = len(pending)

    def ready(self) -> list[int]:
        """Return the nodes that wait for nothing."""
        return [node for node, count in enumerate(self._pending) if not count]

    def finish(self, node: int) -> list[int]:
        """Take one as finished; return those that have become ready by it, in order."""
        self.left -= 1
        return self.release(self._successors[node])

    def release(self, successors: Sequence[int]) -> list[int]:
        """Count down for some nodes; return those that have become ready."""
        pending = self._pending
        ready = []
        for successor in successors:
            count = pending[successor] = pending[successor] - 1
            if not count:
                ready.append(successor)
        return ready
