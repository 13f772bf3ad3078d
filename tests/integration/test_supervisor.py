"""The supervisor with real processes: what it starts, starts again, ends, and never leaves behind."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import pytest

import aioflow as flow
from aioflow.cluster._cluster_file import format_cluster
from aioflow.cluster._programs import parse_programs
from aioflow.cluster._supervision import program_starts, server_starts
from aioflow.cluster._supervisor import run_starts
from tests.integration.conftest import Program, Watch

# The bounds of the design.
UP_S = 3.0
DOWN_S = 5.0

pytestmark = [pytest.mark.timeout(60)]

STUBBORN = (
    "import signal; [signal.signal(n, signal.SIG_IGN) for n in (2, 15)]; print('deaf', flush=True); signal.pause()"
)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """The event loops on which it works; with uvloop a program is run by itself."""
    return request.param


@pytest.fixture
def cluster(folder: Path) -> dict[str, list[str]]:
    """One ps task and two workers."""
    return {"ps": [f"ipc://{folder}/ps"], "worker": [f"ipc://{folder}/w0", f"ipc://{folder}/w1"]}


@pytest.fixture
def up(tmp_path: Path, cluster: dict[str, list[str]], run_program: Callable[..., Program]) -> Callable[[str], Program]:
    """Run `aioflow up` with that cluster and further tables."""

    def start(tables: str) -> Program:
        path = tmp_path / "cluster.toml"
        path.write_text(f"[jobs]\nps = {cluster['ps']}\nworker = {cluster['worker']}\n{tables}")
        return run_program("-m", "aioflow", "up", str(path))

    return start


def _pids(program: Program, count: int) -> list[int]:
    """Read output until so many processes were started; return their numbers."""
    while len(found := re.findall(r"\| started as process (\d+)", program.output)) < count:
        program.read_line()
    return [int(pid) for pid in found]


def test_up_runs_a_cluster_and_its_programs(up: Callable[[str], Program]) -> None:
    """Each line has a name in front; it ends when the programs are done, and leaves no socket behind."""
    show = "import os, sys; print(os.environ['AIOFLOW_TARGET'], os.environ['AIOFLOW_INDEX'], file=sys.stderr)"
    program = up(
        f'[programs]\none = ["python", "-c", "{show}"]\n'
        f'two = {{command = ["python", "-c", "{show}"], count = 2, target = "/job:worker/task:1"}}\n'
    )
    assert program.finish() == 0, program.output
    lines = [re.split(r" +\| ", line, maxsplit=1) for line in program.output.splitlines()]
    said = {name: [line for who, line in lines if who == name] for name, *_ in lines}
    ps = next(line for line in said["/job:ps/task:0"] if line.startswith("aioflow serves at "))
    address = ps.removeprefix("aioflow serves at ")
    assert said["one"][1:] == [f"{address} 0", "ended with exit code 0"]
    for index in range(2):
        assert said[f"two:{index}"][1:] == [f"{address[:-2]}w1 {index}", "ended with exit code 0"]
    for task in ("/job:ps/task:0", "/job:worker/task:0", "/job:worker/task:1"):
        assert said[task][-1] == "ended with exit code 0"
    assert "\033" not in program.output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_within_five_seconds(
    up: Callable[[str], Program], watch: Callable[[list[int]], Watch], number: signal.Signals, code: int
) -> None:
    """Also programs that take no notice, and what they have started."""
    program = up(f'[programs]\ndeaf = ["sh", "-c", "python3 -c \\"{STUBBORN}\\" & wait"]\n')
    watched = watch(_pids(program, 4))
    program.read_until("| deaf")
    ended, took_s = program.end_by(number)
    assert ended == code, program.output
    assert took_s < DOWN_S
    assert watched.left(0.1) == []
    assert "Traceback" not in program.output


RUNS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "import uvloop; uvloop.run(main())",
    "trio": "import trio; trio.run(main)",
}


@pytest.mark.parametrize("run", RUNS)
def test_ctrl_c_in_a_program_that_launches(
    cluster: dict[str, list[str]],
    watch: Callable[[list[int]], Watch],
    run_program: Callable[..., Program],
    run: str,
) -> None:
    """The same by a plain cancel of the main task, which passes through anyio's shields, and by trio's interrupt."""
    program = run_program(f"""
        import asyncio
        import aioflow as flow

        async def main():
            async with flow.launch({cluster}, {{"sleeper": ["sleep", "60"]}}) as running:
                await running.join()

        {RUNS[run]}
    """)
    watched = watch(_pids(program, 4))
    _, took_s = program.end_by(signal.SIGINT)
    assert took_s < DOWN_S
    assert program.output.rstrip().endswith("KeyboardInterrupt")
    assert watched.left(0.1) == []


def test_a_supervisor_that_is_killed_leaves_nothing(
    up: Callable[[str], Program], watch: Callable[[list[int]], Watch], folder: Path
) -> None:
    """Servers remove their sockets; programs that take no notice of anything are killed, with what they started."""
    inner = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', '''{STUBBORN}''']).pid, flush=True)"
    program = up(f'[programs]\ndeaf = ["sh", "-c", "python3 -c \\"{inner}\\"; sleep 60"]\n')
    pids = _pids(program, 4)
    grandchild = next(int(m[1]) for m in iter(lambda: re.search(r"^deaf +\| (\d+)$", program.read_line()), 0) if m)
    program.read_until("| deaf")
    watched = watch([*pids, grandchild])
    program.kill()
    assert watched.left(DOWN_S) == []
    assert list(folder.iterdir()) == []


async def test_a_server_that_is_killed_comes_back(
    cluster: dict[str, list[str]], watch: Callable[[list[int]], Watch], anyio_backend: object
) -> None:
    """Its clients are told that what it held is gone; the others are not disturbed, and at the end nothing is left."""
    queue = flow.FIFOQueue(5, "int32", [[]], shared_name="numbers", device="/job:ps/task:0")
    async with flow.launch(cluster) as running:
        assert [info.address for info in running.processes.values()] == [*cluster["ps"], *cluster["worker"]]
        before = {name: info.pid for name, info in running.processes.items()}
        async with flow.Session(cluster["ps"][0]):
            await queue.enqueue(1)
            os.kill(before["/job:ps/task:0"] or 0, signal.SIGKILL)
            with pytest.raises(flow.QueueReset):
                await queue.dequeue_many(5)
            await queue.enqueue(2)
            assert await queue.dequeue() == 2
        after = running.processes
        assert after["/job:ps/task:0"].restarts == 1
        assert {name for name, info in after.items() if info.pid != before[name]} == {"/job:ps/task:0"}
        watched = watch([info.pid for info in after.values() if info.pid is not None])
    assert watched.left(0.1) == []
    assert {info.pid for info in running.processes.values()} == {None}


async def test_without_its_keeper_it_goes_on(
    cluster: dict[str, list[str]], anyio_backend: object, caplog: pytest.LogCaptureFixture
) -> None:
    """The process that would end the others was killed: that is logged, and nothing else happens."""
    async with flow.launch({"ps": cluster["ps"]}) as running:
        children = {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}
        keeper = next(pid for pid in children if b"_keeper.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
        descriptor = os.pidfd_open(keeper)
        os.kill(keeper, signal.SIGKILL)
        select.select([descriptor], [], [])
        os.close(descriptor)
        queue = flow.FIFOQueue(5, "int32", [[]], shared_name="numbers")
        async with flow.Session(cluster["ps"][0]):
            await queue.enqueue(1)
            os.kill(running.processes["/job:ps/task:0"].pid or 0, signal.SIGKILL)
            with pytest.raises(flow.QueueReset):
                await queue.dequeue_many(5)
    assert "the process was ended that would end the others" in caplog.text


async def test_a_program_that_fails_is_run_again_until_it_is_done(
    cluster: dict[str, list[str]], tmp_path: Path, anyio_backend: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """`join` waits for that."""
    script = f"test -e {tmp_path}/once && exit 0; touch {tmp_path}/once; exit 7"
    async with flow.launch({"ps": cluster["ps"]}, {"twice": ["sh", "-c", script]}) as running:
        await running.join()
        assert running.processes["twice"].restarts == 1
        assert running.processes["twice"].pid is None
    assert re.findall(r"twice +\| (ended .*)", capfd.readouterr().out) == [
        "ended with exit code 7",
        "ended with exit code 0",
    ]


async def test_a_program_that_fails_at_once_again_and_again_ends_all(
    cluster: dict[str, list[str]], anyio_backend: object
) -> None:
    """The block is cancelled, and the error says which, how, and its last words."""
    failed = (
        "^bad: ended 5 times in a row within 5 s of its start, at last with exit code 3; its last line was: no luck$"
    )
    left = False
    with pytest.raises(flow.ProcessFailed, match=failed) as raised:
        async with flow.launch({"ps": cluster["ps"]}, {"bad": ["sh", "-c", "echo no luck; exit 3"]}):
            try:
                await anyio.sleep_forever()
            finally:
                left = True
    assert left
    assert (raised.value.name, raised.value.code) == ("bad", 3)


async def test_a_command_that_is_not_there(cluster: dict[str, list[str]], anyio_backend: object) -> None:
    """That will not change."""
    with pytest.raises(flow.ProcessFailed, match=r"^bad: cannot be started: 'no-such-command': No such file") as raised:
        async with flow.launch({"ps": cluster["ps"]}, {"bad": ["no-such-command"]}) as running:
            await running.join()
    assert raised.value.code is None


async def test_an_error_of_the_block_is_the_one_that_leaves_it(
    cluster: dict[str, list[str]], anyio_backend: object
) -> None:
    """As it is, with its cause; also a cancellation, while the servers are still starting."""
    with pytest.raises(ZeroDivisionError) as raised:
        async with flow.launch({"ps": cluster["ps"]}):
            raise ZeroDivisionError from KeyError("why")
    assert isinstance(raised.value.__cause__, KeyError)
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with flow.launch({"ps": cluster["ps"]}):
            pytest.fail("entered")
    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_server_that_cannot_start(
    cluster: dict[str, list[str]], serve: Callable[..., Any], anyio_backend: object
) -> None:
    """It says why by itself; the error repeats it."""
    server, _ = serve(cluster["ps"][0])
    with pytest.raises(flow.ProcessFailed, match=r"/job:ps/task:0: ended 5 times .* AddressInUse: .*ps"):
        async with flow.launch({"ps": cluster["ps"]}):
            pytest.fail("entered")
    server.end_by(signal.SIGTERM)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cluster_is_up_in_time(
    cluster: dict[str, list[str]], anyio_backend: object, capfd: pytest.CaptureFixture[str]
) -> None:
    """One ps task and two workers, with the devices that they are to see and the settings that they are to have."""
    took: list[float] = []
    for _ in range(3):
        began = monotonic()
        config = flow.SessionConfig(lost_s=7)
        async with flow.launch(cluster, config=config, devices={"/job:worker/task:1": "3"}) as running:
            took.append(monotonic() - began)
            for name, info in running.processes.items():
                environment = Path(f"/proc/{info.pid}/environ").read_bytes().split(b"\0")
                assert (b"CUDA_VISIBLE_DEVICES=3" in environment) == (name == "/job:worker/task:1")
                assert (b"CUDA_DEVICE_ORDER=PCI_BUS_ID" in environment) == (name == "/job:worker/task:1")
    with capfd.disabled():
        print(f"\nup after {', '.join(f'{seconds:.2f}' for seconds in took)} s", file=sys.stderr)
    assert min(took) < UP_S  # what the machine does besides is no matter here


@pytest.mark.anyio
async def test_a_cluster_with_keys(cluster: dict[str, list[str]]) -> None:
    """Servers reach each other, programs and the block open sessions, and nobody else does."""
    spec = flow.ClusterSpec(cluster)
    starts = server_starts(spec, {}, [], sys.executable)
    listing = "async with flow.Session() as s:\n  assert len(await s.devices()) == 3"
    code = f"import aioflow as flow, asyncio\nasync def main():\n {listing}\nasyncio.run(main())"
    starts += program_starts(parse_programs({"lists": ["python", "-c", code]}, spec), spec, sys.executable)
    address = spec.task_address("worker", 0)
    async with run_starts(starts, format_cluster(spec, flow.SessionConfig()), has_keys=True) as running:
        await running.join()
        async with flow.Session(address, credentials=running.credentials) as session:
            assert len(await session.devices()) == 3
        with anyio.fail_after(10), pytest.raises(flow.AuthenticationFailed):
            async with flow.Session(address):
                pass
