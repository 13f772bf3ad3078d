"""Settings of sessions and servers."""

from __future__ import annotations

from dataclasses import dataclass, field

from aioflow.devices import GPUOptions
from aioflow.errors import SpecMismatch

__all__ = ["SessionConfig"]


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Settings of a session or a server; a unit stands last in a name.

    Attributes:
        inter_op_parallelism_threads: Threads for plain kernels of one device; 0 is one for each core.
        intra_op_parallelism_threads: Threads within one kernel; 0 is one for each core.
        allow_soft_placement: Fall back to another device where a node has no kernel for its own.
        log_device_placement: Print where each node runs.
        gpu_options: How GPUs are used.
        connect_s: How long to wait for a server that is still starting.
        heartbeat_s: How often a client shows that it lives.
        lost_s: After how long without a sign of life the other side counts as lost.
        session_s: How long a session, or a drained queue to which nobody is attached, outlives its clients.
    """

    inter_op_parallelism_threads: int = 0
    intra_op_parallelism_threads: int = 0
    allow_soft_placement: bool = False
    log_device_placement: bool = False
    gpu_options: GPUOptions = field(default_factory=GPUOptions)
    connect_s: float = 10
    heartbeat_s: float = 1
    lost_s: float = 3
    session_s: float = 60

    def __post_init__(self) -> None:
        """Refuse durations that cannot work.

        Raises:
            SpecMismatch: A duration is zero or negative, `heartbeat_s` not below `lost_s`, or `session_s` below it.
        """
        for name in ("connect_s", "heartbeat_s", "lost_s", "session_s"):
            if not getattr(self, name) > 0:
                raise SpecMismatch(f"{name} is {getattr(self, name)}; expected seconds above 0")
        if self.heartbeat_s >= self.lost_s:
            raise SpecMismatch(
                f"heartbeat_s is {self.heartbeat_s} and lost_s {self.lost_s}; expected heartbeat_s below lost_s: "
                "else a client counts as lost between two beats"
            )
        if self.session_s < self.lost_s:
            raise SpecMismatch(
                f"session_s is {self.session_s} and lost_s {self.lost_s}; expected at least lost_s: else a session is "
                "over before it counts as lost"
            )
