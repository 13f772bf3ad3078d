"""A parameter-server job on this machine: two ps tasks, two worker tasks, a loader and a trainer for each worker.

    python examples/cluster/run.py            # processes that aioflow's own launcher supervises
    python examples/cluster/run.py --ray      # the same cluster and programs as Ray actors; needs `aioflow-mq[ray]`

The variables are sharded over the ps tasks, and a queue on one of them is shared by the loader and both trainers. Each
trainer opens a session on the server of its worker, which is the master of its steps. Any of these processes may be
killed while it trains: its launcher starts it again, and the model is still made.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aioflow as flow

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

HERE = Path(__file__).parent
WORKERS = 2


def cluster(folder: str) -> flow.ClusterSpec:
    """Return the tasks, at sockets in a folder."""
    return flow.ClusterSpec(
        {
            "ps": [f"ipc://{folder}/ps{task}" for task in range(2)],
            "worker": [f"ipc://{folder}/worker{task}" for task in range(WORKERS)],
        }
    )


def programs() -> dict[str, Any]:
    """Return what runs beside the servers."""
    # Said to each, since on Ray they do not have the environment of this process.
    steps = {"DIGITS_STEPS": os.environ["DIGITS_STEPS"]} if "DIGITS_STEPS" in os.environ else {}
    found: dict[str, Any] = {"loader": {"command": ["python", str(HERE / "loader.py")], "env": steps}}
    for worker in range(WORKERS):
        found[f"trainer{worker}"] = {
            "command": ["python", str(HERE / "trainer.py")],
            "target": f"/job:worker/task:{worker}",
            "env": {"WORKER": str(worker), **steps},
        }
    return found


def start(folder: str, *, on_ray: bool) -> AbstractAsyncContextManager[Any]:
    """Launch it; the servers import `pipeline`, for its ops."""
    if on_ray:
        from aioflow.contrib import ray  # noqa: PLC0415 - for who asks for it

        return ray.launch(cluster(folder), programs(), ops=["pipeline"])
    return flow.launch(cluster(folder), programs(), ops=["pipeline"])


async def main() -> None:
    """Run until the programs are done."""
    parser = argparse.ArgumentParser(description="Train shared variables by two workers.")
    parser.add_argument("--ray", action="store_true", help="on Ray instead of aioflow's own launcher")
    parser.add_argument("--steps", type=int, help="how many the trainers make together")
    arguments = parser.parse_args()
    if arguments.steps is not None:
        os.environ["DIGITS_STEPS"] = str(arguments.steps)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the matrices are small: leave the cores to the other processes
    with tempfile.TemporaryDirectory(prefix="aioflow-") as folder:
        async with start(folder, on_ray=arguments.ray) as running:
            await running.join()
    print("done")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    except flow.AioflowError as error:
        sys.exit(f"run.py: {error}")
