"""The checks of `tests/conftest.py` find what they look for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LEAKING = """
import asyncio, os, socket, subprocess, sys, tempfile, threading, time
import anyio, pytest
import tests.conftest as checks
import aioflow.names

checks.SETTLE_S = 0.05
kept = []

@pytest.mark.anyio
async def test_task():
    kept.append(asyncio.create_task(anyio.sleep(60)))

def test_thread():
    ended = threading.Event()
    kept.append(ended)
    threading.Thread(target=ended.wait, daemon=True).start()

def test_descriptor():
    kept.append(os.dup(1))

def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE))

def test_socket():
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.join(tempfile.gettempdir(), "x"))

@pytest.mark.anyio
async def test_block(monkeypatch):
    monkeypatch.setattr(aioflow.names, "replace", lambda *_, **__: time.sleep(0.001))
    aioflow.names.DeviceName().merge(aioflow.names.DeviceName())

@pytest.mark.anyio
async def test_clean():
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, time.time)

def test_end():
    for each in kept:
        if isinstance(each, subprocess.Popen):
            each.communicate()
        elif isinstance(each, threading.Event):
            each.set()

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def test_each_kind_of_leak_fails_its_test(tmp_path: Path) -> None:
    """A task, thread, descriptor, process, socket file and blocking call each fail the test that did it."""
    file = tmp_path / "test_leaking.py"
    file.write_text(LEAKING)
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *settings, "-p", "tests.conftest", "-rEf", "--tb=line", str(file)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = set(re.findall(r"^(FAILED|ERROR) .*::(test_\w+)", output, re.MULTILINE))
    assert found == {
        ("FAILED", "test_task"),
        ("ERROR", "test_thread"),
        ("ERROR", "test_descriptor"),
        ("ERROR", "test_process"),
        ("ERROR", "test_socket"),
        ("FAILED", "test_block"),
    }, output
    for what in ("tasks behind: ", "behind: thread ", "behind: descriptor ", "behind: process ", "behind: socket "):
        assert what in output, output
