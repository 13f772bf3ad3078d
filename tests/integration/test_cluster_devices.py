"""`aioflow devices --target`, with the servers of a cluster as processes."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

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
