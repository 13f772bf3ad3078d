"""`aioflow devices --target` and `aioflow queues`, with the servers of a cluster as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import numpy as np
import pytest

import aioflow as flow

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.conftest import Program

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def serve_task(tmp_path: Path, folder: Path, run_program: Callable[..., Program]) -> Callable[[str], Program]:
    """Serve a task of a cluster of one ps task and one worker, and wait for its line."""
    cluster = tmp_path / "cluster.toml"
    cluster.write_text(
        f"[jobs]\nps = ['ipc://{folder}/ps']\nworker = ['ipc://{folder}/worker']\n[config]\nconnect_s = 0.3\n"
    )

    def serve(job: str) -> Program:
        program = run_program("-m", "aioflow", "serve", "--cluster", str(cluster), "--job", job)
        assert program.read_line() == f"aioflow serves at ipc://{folder}/{job}"
        return program

    return serve


def test_the_devices_of_a_cluster_are_listed(
    folder: Path, serve_task: Callable[[str], Program], run_program: Callable[..., Program]
) -> None:
    """A line for each of all tasks, or JSON; those of the server that is asked come first."""
    servers = [serve_task("ps"), serve_task("worker")]
    command = ("-m", "aioflow", "devices", "--target", f"ipc://{folder}/worker")
    lines, told = run_program(*command), run_program(*command, "--json")
    assert (lines.finish(), told.finish()) == (0, 0), lines.output + told.output
    cpus = ["/job:worker/task:0/device:CPU:0", "/job:ps/task:0/device:CPU:0"]
    assert [line.split("  ")[0] for line in lines.output.splitlines() if "/device:CPU:" in line] == cpus
    devices = json.loads(told.output)["devices"]
    assert [device["device"] for device in devices if device["kind"] == "CPU"] == cpus
    assert all(device["name"] and "memory_limit" in device for device in devices)
    for server in servers:
        assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def test_a_cluster_whose_tasks_are_missing(
    folder: Path, serve_task: Callable[[str], Program], run_program: Callable[..., Program]
) -> None:
    """One line names them, and the exit code is 1."""
    server = serve_task("ps")
    program = run_program("-m", "aioflow", "devices", "--target", f"ipc://{folder}/ps")
    assert program.finish() == 1
    assert "ConnectFailed: 1 of 2 tasks of the cluster are missing: /job:worker/task:0" in program.output
    assert program.output.count("\n") == 1
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def test_the_queues_of_a_cluster_are_listed(
    folder: Path, serve_task: Callable[[str], Program], run_program: Callable[..., Program]
) -> None:
    """Of every task, whichever server is asked: all, or those of a name; as lines or JSON; and its shared memory."""
    servers = [serve_task("ps"), serve_task("worker")]
    address = f"ipc://{folder}/worker"
    ps, worker = "/job:ps/task:0", "/job:worker/task:0"
    large = flow.FIFOQueue(4, "uint8", [1 << 20], shared_name="large", device=ps)
    small = flow.FIFOQueue(-1, "int64", [], shared_name="small", capacity_bytes=4096, device=worker)

    async def fill() -> tuple[flow.ServerStats, ...]:
        async with flow.Session(address) as session, anyio.create_task_group() as tasks:
            with flow.container("attic"):
                boxes = flow.PriorityQueue(2, "int64", [], shared_name="boxes", device=ps)
            await boxes.size()
            await boxes.close()
            await large.enqueue_many(np.zeros((3, 1 << 20), np.uint8))
            tasks.start_soon(small.dequeue_many, 3)
            await small.enqueue_many([1, 2])
            while not (await small.stats()).gets_hold:
                await anyio.sleep(0)
            command = ("-m", "aioflow", "queues", "--target", f"ipc://{folder}/ps")
            programs = [run_program(*command), run_program(*command, "--json"), run_program(*command, "large")]
            missing = run_program(*command, "absent")
            for program in programs:
                assert await anyio.to_thread.run_sync(program.finish) == 0, program.output
            assert await anyio.to_thread.run_sync(missing.finish) == 1
            listed.extend(program.output for program in (*programs, missing))
            stats = await session.stats()
            tasks.cancel_scope.cancel()
            return stats
        raise AssertionError

    listed: list[str] = []
    with_large, alone = anyio.run(fill)
    assert [with_large.task, alone.task] == [ps, worker]
    assert [(q.container, q.name, q.size) for q in with_large.queues] == [("", "large", 3), ("attic", "boxes", 0)]
    assert [(q.name, q.size, q.gets_waiting, q.gets_hold) for q in alone.queues] == [("small", 0, 1, 2)]
    assert 3 << 20 <= with_large.memory_bytes <= 4 << 20 > alone.memory_bytes == 0
    lines, told, one, missing = listed
    assert [line.split("  ")[0] for line in lines.splitlines() if line.startswith("/job")] == [ps, worker]
    assert "large  FIFOQueue  3 of 4 elements, 3.1 of " in lines
    assert "attic/boxes  PriorityQueue  0 of 2 elements" in lines
    assert "1 gets wait  2 held by gets that wait for more" in lines
    queues = {queue["name"]: queue for server in json.loads(told)["servers"] for queue in server["queues"]}
    assert (queues["boxes"]["is_closed"], queues["large"]["enqueued"], len(queues)) == (True, 3, 3)
    assert queues["small"]["gets_hold"] == 2
    assert "large" in one
    assert "boxes" not in one
    assert "NotFound: there is no queue 'absent'" in missing
    assert "there are attic/boxes, large, small" in missing
    for server in servers:
        assert server.end_by(signal.SIGTERM)[0] == 0, server.output


def test_no_server_is_named(run_program: Callable[..., Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to name one."""
    monkeypatch.delenv("AIOFLOW_TARGET", raising=False)
    program = run_program("-m", "aioflow", "queues")
    assert program.finish() == 1
    assert "--target" in program.output


def test_a_task_that_is_missing_hides_nothing_of_the_others(
    folder: Path, serve_task: Callable[[str], Program], run_program: Callable[..., Program]
) -> None:
    """Its line says so, and the exit code is 1."""
    server = serve_task("ps")
    program = run_program("-m", "aioflow", "queues", "--target", f"ipc://{folder}/ps")
    assert program.finish() == 1
    first, none, last = [line for line in program.output.splitlines() if line.startswith(("/job", "  "))]
    assert first == "/job:ps/task:0  0.0 MB of shared memory"
    assert none == "  no queues"
    assert last.startswith("/job:worker/task:0  /job:worker/task:0 is missing")
    assert server.end_by(signal.SIGTERM)[0] == 0, server.output


@pytest.mark.parametrize("out", ["closed", "full"])
def test_a_list_that_nobody_takes(folder: Path, serve_task: Callable[[str], Program], out: str) -> None:
    """A pipe that was closed ends the command quietly, a full disk with one line; names make no lines of their own."""
    servers = [serve_task("ps"), serve_task("worker")]
    address = f"ipc://{folder}/ps"

    async def make() -> None:
        async with flow.Session(address):
            odd = flow.FIFOQueue(4, "int64", [], shared_name="a\nb\x1b[31m", device="/job:ps/task:0")
            await odd.enqueue(1)

    anyio.run(make)
    command = [sys.executable, "-m", "aioflow", "queues", "--target", address]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert "  a\\nb\\x1b[31m  FIFOQueue" in listed.stdout.splitlines()[1]
    reader, writer = os.pipe()
    os.close(reader)
    if out == "full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    try:
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    finally:
        os.close(writer)
    assert ended.returncode == 1
    assert ended.stderr == (
        "" if out == "closed" else "aioflow: cannot write: No space left on device; free some and try again\n"
    )
    for server in servers:
        assert server.end_by(signal.SIGTERM)[0] == 0, server.output
