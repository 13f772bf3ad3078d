"""Two containers, as namespaces make them, that share only the folder of the server's socket, or the socket alone.

Each has a network, a mount and a process namespace of its own; both run the same programs, as from one image.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Program

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces, and this kind of memory"),
]

UNSHARE = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
# A folder of the image, in which the container sees what it shares; elsewhere it does not see it.
INSIDE = "/mnt"
FOLDER = """
mount --bind "$1" /mnt
mount -t tmpfs none "$1"
mount -t tmpfs none /dev/shm
shift
exec "$@"
"""
SOCKET_ALONE = """
mount -t tmpfs none /mnt
touch /mnt/s
mount --bind "$1/s" /mnt/s
mount -t tmpfs none "$1"
mount -t tmpfs none /dev/shm
shift
exec "$@"
"""

CLIENT = """
import asyncio, logging
from pathlib import Path
import numpy as np
import aioflow as flow

logging.basicConfig(level="INFO")
queue = flow.FIFOQueue(8, "int64", (1 << 16,), shared_name="numbers")

async def main():
    async with flow.Session("ipc:///mnt/s"):
        for batch in range(20):
            rows = np.arange(4 << 16).reshape(4, -1) + batch
            await queue.enqueue_many(rows)
            taken = await queue.dequeue_many(4)
            assert np.array_equal(taken, rows)
        shared = "memfd:aioflow" in Path("/proc/self/maps").read_text()
    print("all came", "through memory" if shared else "in frames", flush=True)

asyncio.run(main())
"""


def why_not() -> str:
    """Return why this process may make no such namespaces; empty where it may."""
    if shutil.which("unshare") is None or not Path(INSIDE).is_dir():
        return "there is no unshare, or no /mnt"
    tried = subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", INSIDE], capture_output=True, check=False)
    return f"no namespaces: {tried.stderr.decode().strip()}" if tried.returncode else ""


@pytest.fixture
def contain(run_program: Callable[..., Program], folder: Path) -> Callable[..., Program]:
    """Start a Python program in a container that is set up by a script."""
    if reason := why_not():
        pytest.skip(reason)

    def start(script: str, *arguments: str) -> Program:
        command = ["bash", "-e", "-c", script, "container", str(folder), sys.executable, "-u", *arguments]
        return run_program("-c", "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])", *UNSHARE, *command)

    return start


@pytest.mark.parametrize(
    ("script", "way", "lines"),
    [
        pytest.param(FOLDER, "through memory", 0, id="folder"),
        pytest.param(SOCKET_ALONE, "in frames", 1, id="socket-alone"),
    ],
)
def test_what_is_shared(contain: Callable[..., Program], folder: Path, script: str, way: str, lines: int) -> None:
    """Memory is shared where the way to it is, and else the payload goes through the socket, which one line says."""
    server = contain(FOLDER, "-m", "aioflow", "serve", "--bind", f"ipc://{INSIDE}/s")
    assert server.read_line() == f"aioflow serves at ipc://{INSIDE}/s"
    client = contain(script, "-c", CLIENT)
    assert client.finish() == 0, client.output
    assert f"all came {way}" in client.output
    assert client.output.count("without shared memory: /mnt/s.shm is not there") == lines
    server.kill()
    for left in folder.iterdir():  # by a server that was killed
        left.unlink()
