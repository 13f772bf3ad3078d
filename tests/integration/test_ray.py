"""A cluster on Ray: what it starts, restarts, ends and takes over. One Ray for all, on a network of its own.

Each test is a driver, a program by itself: Ray leaves threads and descriptors in a process that has used it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Program, Watch, at_night
from tests.integration.reliability.namespaces import ip, why_not

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra `ray`"),
]

RUN = Path(__file__).parents[2] / "examples" / "cluster" / "run.py"

# Ray's ports listen on all interfaces: in a namespace there is none but the loopback interface.
# Those who speak to it have to know a word, so that it needs no file of the user's.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

RAY = """
import sys
import ray
context = ray.init(
    num_cpus=2, num_gpus=1, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False,
    _node_ip_address="127.0.0.1", _temp_dir=sys.argv[1],
)
print("ray at", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""

LAUNCH = """
import asyncio, os, signal, sys, time
import aioflow as flow
from aioflow.contrib import ray

FOLDER = {folder!r}
CLUSTER = {{"ps": [f"ipc://{{FOLDER}}/ps"], "worker": [f"ipc://{{FOLDER}}/w0", f"ipc://{{FOLDER}}/w1"]}}
numbers = flow.FIFOQueue(5, "int32", [[]], shared_name="numbers", device="/job:ps/task:0")

def print(*words):  # as one line of its own, in whose middle Ray's thread writes nothing
    os.write(1, ("\\n" + " ".join(map(str, words)) + "\\n").encode())
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[tuple[str, str | None]]:
    """Run Ray; give its address, and the namespace of its network."""
    namespace = None if why_not() else f"aioflow-ray{os.getpid()}"
    inside: list[str] = []
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        if namespace:
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
            inside = ["ip", "netns", "exec", namespace]
        command = [*inside, sys.executable, "-c", RAY, folder]
        try:
            with subprocess.Popen(
                command,
                env=os.environ | SETTINGS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,
            ) as process:
                try:
                    program = Program(process)
                    yield program.read_until("ray at").removeprefix("ray at "), namespace
                finally:
                    process.communicate(timeout=30)
        finally:
            if namespace:
                ip("netns", "delete", namespace)


@pytest.fixture
def drive(
    ray: tuple[str, str | None],
    folder: Path,
    run_program: Callable[..., Program],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Program]:
    """Start a driver: the body of its `main`, in which a cluster and a queue are there, or a file and its arguments."""
    for name, value in {**SETTINGS, "RAY_ADDRESS": ray[0]}.items():
        monkeypatch.setenv(name, value)

    def start(body: str, *arguments: str) -> Program:
        if not arguments:
            lines = body.strip("\n").splitlines()
            indent = len(lines[0]) - len(lines[0].lstrip())
            main = "".join(f"    {line[indent:]}\n" for line in lines)
            body = f"{LAUNCH.format(folder=str(folder))}\nasync def main():\n{main}\nasyncio.run(main())"
        return run_program(body, *arguments, namespace=ray[1])

    return start


def _said(program: Program, what: str) -> list[list[str]]:
    return [line.split() for line in re.findall(rf"^said {what}(.*)$", program.output, re.MULTILINE)]


@at_night
def test_a_cluster_on_ray(drive: Callable[..., Program], watch: Callable[[list[int]], Watch], folder: Path) -> None:
    """A step over two tasks; a server whose process is killed comes back; nothing is left when the block was left."""
    program = drive("""
        show = "import os, time; print('gpu', os.environ['CUDA_VISIBLE_DEVICES'], os.environ['AIOFLOW_TARGET'][-2:]); "
        programs = {"loader": {"command": ["python", "-c", show + "time.sleep(60)"], "target": "/job:worker/task:1"}}
        began = time.monotonic()
        async with ray.launch(CLUSTER, programs, gpus={"loader": 1}) as running:
            print("up", time.monotonic() - began)
            with flow.Graph(), flow.device("/job:worker/task:1"):
                with flow.device("/job:ps/task:0"):
                    half = flow.identity(21)
                whole = flow.identity(half)
            async with flow.Session(CLUSTER["worker"][0]) as session:
                print("said step", await session.run(whole))
                await numbers.enqueue(1)
                before = await running.processes()
                os.kill(before["/job:ps/task:0"].pid, signal.SIGKILL)
                killed = time.monotonic()
                try:
                    await numbers.dequeue_many(5)
                except flow.QueueReset:
                    print("said reset", time.monotonic() - killed)
                await numbers.enqueue(2)
                print("said queue", await numbers.dequeue())
            while (after := await running.processes())["loader"].pid is None:
                pass
            print("said restarts", *(info.restarts for info in after.values()))
            print("said others", *(name for name in list(after)[:3] if after[name].pid == before[name].pid))
            os.mkfifo(FOLDER + "/go")
            print("said pids", *(info.pid for info in after.values()))
            await asyncio.to_thread(open, FOLDER + "/go")
            began = time.monotonic()
        print("left", time.monotonic() - began)
    """)
    program.read_until("said pids")
    watched = watch([int(pid) for pid in _said(program, "pids")[0]])
    with (folder / "go").open("w"):  # which it waits for
        (folder / "go").unlink()
    assert program.finish() == 0, program.output
    assert _said(program, "step") == [["21"]]
    assert len(_said(program, "reset")) == 1
    assert _said(program, "queue") == [["2"]]
    assert _said(program, "restarts") == [["1", "0", "0", "0"]]
    assert _said(program, "others") == [["/job:worker/task:0", "/job:worker/task:1"]]
    assert re.search(r"^\(loader pid=\d+\) gpu 0 w1$", program.output, re.MULTILINE), program.output
    assert watched.left(1) == []


@at_night
def test_a_driver_that_is_killed(drive: Callable[..., Program], watch: Callable[[list[int]], Watch]) -> None:
    """Its programs end, and its servers go on: the next driver is refused, or takes over what they hold."""
    first = drive("""
        async with ray.launch(CLUSTER, {"sleeper": ["sleep", "60"]}) as running:
            async with flow.Session(CLUSTER["worker"][0]):
                await numbers.enqueue(7)
            while (info := (await running.processes())["sleeper"]).pid is None:
                pass
            print("said pids", info.pid)
            await running.join()
    """)
    first.read_until("said pids")
    watched = watch([int(_said(first, "pids")[0][0])])
    first.kill()
    assert watched.left(10) == []
    second = drive("""
        for options in ({}, {"take_over": True, "ops": ["os"]}):
            try:
                async with ray.launch(CLUSTER, **options):
                    pass
            except flow.AioflowError as error:
                print("said", type(error).__name__, error)
        async with ray.launch(CLUSTER, {"done": ["true"]}, take_over=True) as running:
            async with flow.Session(CLUSTER["worker"][0]):
                print("said queue", await numbers.dequeue())
            await running.join()
            print("said pids", *(info.pid for info in (await running.processes()).values()))
        async with ray.launch({"ps": CLUSTER["ps"]}) as running:
            print("said again")
    """)
    assert second.finish() == 0, second.output
    assert "said AddressInUse a cluster named 'aioflow' is on this Ray" in second.output
    assert "said PlacementError /job:ps/task:0 of 'aioflow' was launched with another" in second.output
    assert _said(second, "queue") == [["7"]]
    assert _said(second, "pids")[0][3] == "None"
    assert _said(second, "again") == [[]]


@at_night
def test_what_cannot_run(drive: Callable[..., Program]) -> None:
    """A server or program that cannot be started, or fails again and again, ends all, and says why."""
    program = drive("""
        for programs, ops in (
            ({"bad": ["sh", "-c", "echo no luck; exit 3"]}, []),
            ({"absent": ["no-such-command"]}, []),
            ({}, ["no_such_module"]),
        ):
            try:
                async with ray.launch({"ps": CLUSTER["ps"]}, programs, ops=ops) as running:
                    await running.join()
            except flow.ProcessFailed as error:
                print("said", error.name, error.code, error)
    """)
    assert program.finish() == 0, program.output
    said = re.findall(r"^said (.*)$", program.output, re.MULTILINE)
    assert said[0].startswith("bad 3 bad: ended 5 times in a row within 5 s of its start, at last with exit code 3")
    assert said[0].endswith("its last line was: no luck")
    assert said[1].startswith("absent None absent: cannot be started: 'no-such-command': No such file")
    assert said[2].startswith("/job:ps/task:0 None /job:ps/task:0: cannot be started: ")
    assert "no_such_module" in said[2]


def test_the_example(drive: Callable[..., Program]) -> None:
    """Its trainers fail below 93 %."""
    program = drive(str(RUN), "--ray", "--steps", "300")
    program.read_until("done")
    assert program.finish() == 0, program.output
    accuracies = re.findall(r"^\(trainer\d pid=\d+\) .* recognises (\d+\.\d)%", program.output, re.MULTILINE)
    assert len(accuracies) == 2
    assert min(map(float, accuracies)) >= 93
    assert "Traceback" not in program.output
