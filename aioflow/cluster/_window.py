"""How much one session may offer to one queue that does not take it yet: the payload waits in the server's memory."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Window"]

# A round trip of a megabyte takes about a millisecond: enough to keep a server busy, and little beside the smallest
# capacity that holds such elements. Two groups of 64 images (9.6 MB each) may be under way as well: while one is taken,
# the next is on its way.
BYTES_MAX = 8 << 20
TWO_PUTS_BYTES_MAX = 32 << 20
# So many small puts cost a server about a megabyte besides their payload.
PUTS_MAX = 1024


@dataclass(slots=True)
class Window:
    """Puts under way from one session to one queue. The client keeps to it, and the server ends who does not."""

    puts: int = 0
    nbytes: int = 0

    def admits(self, nbytes: int) -> bool:
        """Whether one more put may be under way; a single one always may."""
        if not self.puts:
            return True
        bytes_max = TWO_PUTS_BYTES_MAX if self.puts == 1 else BYTES_MAX
        return self.puts < PUTS_MAX and self.nbytes + nbytes <= bytes_max

    def add(self, nbytes: int) -> None:
        """Count a put."""
        self.puts += 1
        self.nbytes += nbytes

    def remove(self, nbytes: int) -> None:
        """Count one less."""
        self.puts -= 1
        self.nbytes -= nbytes
