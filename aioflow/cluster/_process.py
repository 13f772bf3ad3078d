"""What a process that serves asks of its system."""

from __future__ import annotations

import ctypes
import gc
import resource
from contextlib import suppress

__all__ = ["prepare_process"]

# From glibc's malloc.h. Frames of this size and more are mapped by themselves, and so much freed memory is kept: the
# first touch of new memory costs ten times a copy, and a queue needs the same again at once.
M_TRIM_THRESHOLD, TRIM_BYTES = -1, 256 << 20
M_MMAP_THRESHOLD, MMAP_BYTES = -3, 32 << 20


def prepare_process() -> None:
    """Set up a process that does little else than to serve, once all is imported.

    It keeps freed memory, may open many files, and looks for no garbage among its modules, which takes 20 ms a time.
    """
    gc.freeze()
    _keep_freed_memory()
    _allow_descriptors()


def _allow_descriptors() -> None:
    """Raise the limit of open files to what the system allows: each session needs three."""
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _keep_freed_memory() -> None:
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
        mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
