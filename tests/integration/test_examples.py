"""The examples, run as a user runs them: their output, their exit codes, and what Ctrl-C leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.integration.conftest import at_night

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

EXAMPLES = Path(__file__).parents[2] / "examples"
ACCURACY_MIN = 93.0
LOSS_MAX = 2.6
INTERRUPTED_S = 2.0  # within which everything has ended after a Ctrl-C
DOWN_S = 5.0  # the same of a launched cluster
TOLD_S = 10.0  # within which everybody knows of the loss of a server
STARTING, TRAINING = r"trainer-0 +\| started", r"trainer-0 +\| epoch  2"

# The bound of every wait in this file: a line or an exit that does not come fails the test.
pytestmark = pytest.mark.timeout(60)


class Example:
    """A running example: its output so far, and the processes that it says it has started."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self.output = ""
        self.pids = {"run.py": process.pid}

    def read_until(self, pattern: str) -> None:
        """Read up to the first line that matches, unless one has been read."""
        if re.search(pattern, self.output, re.MULTILINE):
            return
        for line in self._lines():
            if re.search(pattern, line):
                return
        pytest.fail(f"ended without a line like {pattern!r}:\n{self.output}")

    def finish(self) -> int:
        """Read what is still printed, wait for the end, and return the exit code."""
        for _ in self._lines():
            pass
        return self.process.wait()

    def interrupt(self, name: str) -> None:
        """Send SIGINT to one process; for run.py to its whole group, as a terminal does."""
        send = os.killpg if name == "run.py" else os.kill
        send(self.pids[name], signal.SIGINT)

    def kill_one(self, name: str) -> None:
        """Kill one process as the system does that has no memory left."""
        os.kill(self.pids[name], signal.SIGKILL)

    def leftovers(self) -> list[str]:
        """Name the processes that still exist and the files in the temporary folder."""
        return [name for name, pid in self.pids.items() if _exists(pid)] + [path.name for path in self.folder.iterdir()]

    def kill(self) -> None:
        """End what is left of a failed test."""
        for pid in self.pids.values():
            if _exists(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _lines(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if started := re.match(r"(\S+) +\| started as process (\d+)", line):
                self.pids[started[1]] = int(started[2])
            yield line


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def started(*arguments: str) -> Generator[Example]:
    """Start an example in a process group and with a temporary folder of its own; nothing outlives the block."""
    # Unbuffered programs write a line and its end one after the other, and lines of several processes would mix.
    ours = ("AIOFLOW_", "DIGITS_", "SENTENCES_", "PYTHONUNBUFFERED")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    # The folder's name is short because the address of a unix socket has room for about 100 characters.
    with (
        tempfile.TemporaryDirectory(prefix="flow-") as folder,
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=EXAMPLES,
            env=environment | {"TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process,
    ):
        example = Example(process, Path(folder))
        try:
            yield example
        finally:
            example.kill()


def test_hello_queue_prints_its_squares_in_batches() -> None:
    """Ten squares come in order, four at a time, and the program ends."""
    with started("hello_queue.py") as example:
        assert example.finish() == 0, example.output
        assert example.output.splitlines() == ["[0 1 4 9]", "[16 25 36 49]", "[64 81]"]


def test_many_producers_end_the_queue_and_the_lost_one_is_told() -> None:
    """What the failed loader had put is there, and its traceback comes from its process to the consumer."""
    with started("many_producers.py") as example:
        assert example.finish() == 0, example.output
        assert "loader-1 was lost: ValueError: invalid literal for int() with base 10: 'thirty'" in example.output
        assert example.output.count("was lost") == 1
        assert re.search(r'many_producers.py", line \d+, in load\n +await numbers.enqueue', example.output)
        total = sum([1, 2, 3, 4, 10, 20, 100, 200, 300, 400])
        assert f"took 10 numbers, their sum is {total}" in example.output
        assert re.findall(r"(loader-\d) ended with exit code (\d)", example.output) == [
            ("loader-0", "0"),
            ("loader-1", "1"),
            ("loader-2", "0"),
        ]
        assert example.leftovers() == []


def test_cancels_and_timeouts_lose_nothing() -> None:
    """Both sides are cut short, and each element still comes once, in order."""
    with started("cancel_and_timeout.py") as example:
        assert example.finish() == 0, example.output
        lines = example.output.splitlines()
        assert lines[0] == "no 3 elements in time; the 2 that were there still are: size 2"
        assert lines[1].startswith("no room for 4 more in time: size 4; aioflow: 2 rows are in the queue")
        assert lines[2] == "in order, each once: [1 2 3 4]"
        assert re.fullmatch(r"cut short: dequeue_up_to \d+ times, enqueue \d+ times", lines[3]), example.output
        assert lines[4] == "lost: 0, doubled: 0, in order: True"


def test_names_make_dicts_of_elements() -> None:
    """One, a batch, a wrong one that is refused by its name, and the same components without names."""
    with started("names_and_dicts.py") as example:
        assert example.finish() == 0, example.output
        refused, *rest = example.output.splitlines()
        assert refused.startswith("refused: queue 'steps'")
        assert "'acton'" in refused
        assert rest == [
            "one: {'observation': [0.0, 0.5], 'action': 1, 'reward': 0.25}",
            "batch: {'observation': 'float32 (2, 2)', 'action': 'int64 (2,)', 'reward': 'float32 (2,)'}",
            "mean reward: 0.625",
            "without names: [5. 6.] 4 1.0",
        ]


def test_epochs_are_whole_and_the_next_one_fills_meanwhile() -> None:
    """Every element comes in its own epoch, and some of the next one are in before it is over."""
    with started("epochs.py") as example:
        assert example.finish() == 0, example.output
        for epoch in range(3):
            batches = re.findall(rf"^epoch {epoch}: \[(.*)\], (\d+) of the next", example.output, re.MULTILINE)
            elements = [int(word) for numbers, _ in batches for word in numbers.split()]
            assert sorted(elements) == [100 * epoch + 10 * loader + n for loader in range(2) for n in range(8)]
            assert f"epoch {epoch} is over: 16 elements" in example.output
            assert any(int(ahead) > 0 for _, ahead in batches) == (epoch < 2)


def test_blocking_trainer_learns_from_every_sample() -> None:
    """A call's timeout passes, every sample of the thread arrives, and the line is the one they were made from."""
    with started("blocking_trainer.py") as example:
        assert example.finish() == 0, example.output
        lines = example.output.splitlines()
        assert lines[0] == "nothing came within 10 ms: no loader has started"
        losses = [float(loss) for loss in re.findall(r"loss (\S+)$", example.output, re.MULTILINE)]
        assert len(losses) == 3
        assert losses == sorted(losses, reverse=True)
        assert lines[-1] == "learned from 2000 samples: y = 3.0 x -1.0"


def test_control_dependencies_bound_the_memory() -> None:
    """The values are the same; without them all blocks are there at once, with them four."""
    with started("control_dependencies.py") as example:
        assert example.finish() == 0, example.output
        found = re.findall(r"^(\w+) +control dependencies: (\d+), peak (\S+) MB$", example.output, re.MULTILINE)
        assert [(which, value) for which, value, _ in found] == [("without", "60000000"), ("with", "60000000")]
        without, bounded = [float(peak) for _, _, peak in found]
        assert without > 16 * 4
        assert bounded < 5 * 4


def test_two_devices_share_a_graph() -> None:
    """The chain of products runs on the GPU, or what stands in for it; the rest, and a pinned node, on the CPU."""
    with started("two_devices.py") as example:
        assert example.finish() == 0, example.output
        placed = dict(re.findall(r"^(\w+): \(\w+\): +/job:localhost/task:0/device:(.+)$", example.output, re.MULTILINE))
        on_gpu = sorted(name for name, device in placed.items() if device == "GPU:0")
        assert on_gpu == ["multiply", "multiply_1", "multiply_2", "multiply_3"]
        assert placed["load"] == placed["multiply_4"] == placed["describe"] == "CPU:0"
        assert len(re.findall(r"^256 x 256, mean of squares \d\.\d+$", example.output, re.MULTILINE)) == 2
        assert example.output.count("digraph {") == 1
        assert example.output.count("subgraph cluster_") == 2


def test_digits_are_loaded_by_a_graph() -> None:
    """Four steps at once enqueue every sample exactly once an epoch, and the runner ends each epoch."""
    with started("digits/run.py", "--graph") as example:
        assert example.finish() == 0, example.output
        [accuracy] = re.findall(r"\| test accuracy: (\S+) %", example.output)
        assert float(accuracy) >= ACCURACY_MIN
        assert "20 epochs loaded by graphs of 4 nodes, 4 steps at a time" in example.output
        assert "each of the 1437 samples arrived exactly once in each of the 20 epochs" in example.output
        assert example.leftovers() == []


@pytest.mark.parametrize(("loaders", "trainers"), [(1, 1), (3, 2), pytest.param(3, 1, marks=at_night)])
def test_digits_are_learned_from_every_sample_once_an_epoch(loaders: int, trainers: int) -> None:
    """Each trainer's model is good enough, no sample is lost or doubled, and nothing is left behind."""
    with started("digits/run.py", "--loaders", str(loaders), "--trainers", str(trainers)) as example:
        assert example.finish() == 0, example.output
        accuracies = [float(percent) for percent in re.findall(r"\| test accuracy: (\S+) %", example.output)]
        assert len(accuracies) == trainers
        assert min(accuracies) >= ACCURACY_MIN
        assert "each of the 1437 samples arrived exactly once in each of the 20 epochs" in example.output
        assert len(example.pids) == 1 + 1 + loaders + trainers
        assert example.leftovers() == []


@pytest.mark.parametrize(
    ("moment", "loading"),
    [
        pytest.param(STARTING, ["--loaders", "3"], id="starting-loaders"),
        pytest.param(TRAINING, ["--loaders", "3"], id="training-loaders", marks=at_night),
        pytest.param(STARTING, ["--graph"], id="starting-graph", marks=at_night),
        pytest.param(TRAINING, ["--graph"], id="training-graph"),
    ],
)
def test_ctrl_c_ends_the_digits_at_once_and_quietly(moment: str, loading: list[str]) -> None:
    """The exit code is 130, there is no traceback, and no process or file is left, whenever it comes."""
    with started("digits/run.py", *loading, "--trainers", "2", "--epochs", "1000") as example:
        example.read_until(moment)
        interrupted = monotonic()
        example.interrupt("run.py")
        assert example.finish() == 130, example.output
        assert monotonic() - interrupted < INTERRUPTED_S
        assert "Traceback" not in example.output
        assert example.leftovers() == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(  # either is seen first
            "loader-1", r"(loader-1 ended with exit code 130|trainer-0 ended with exit code 1)", id="loader"
        ),
        pytest.param("trainer-0", r"trainer-0 ended with exit code 130", id="trainer", marks=at_night),
        pytest.param("server", r"\S+ ended with exit code \d+", id="server"),
    ],
)
def test_an_interrupted_part_of_the_digits_ends_the_others(name: str, reason: str) -> None:
    """run.py says who ended, ends the rest, fails, and leaves nothing behind."""
    with started("digits/run.py", "--loaders", "3", "--epochs", "1000") as example:
        example.read_until(r"trainer-0 +\| epoch  2")
        interrupted = monotonic()
        example.interrupt(name)
        assert example.finish() == 1, example.output
        assert monotonic() - interrupted < INTERRUPTED_S
        assert re.search(rf"^run.py: {reason}$", example.output, re.MULTILINE), example.output
        assert "Traceback" not in example.output
        assert example.leftovers() == []


@pytest.mark.parametrize("loaders", [pytest.param(1, marks=at_night), 3])
def test_sentences_are_learned_from_every_one_once_an_epoch(loaders: int) -> None:
    """The held-out loss falls at each test, no sentence is lost or doubled, and nothing is left behind."""
    with started("sentences/run.py", "--loaders", str(loaders), "--epochs", "2") as example:
        assert example.finish() == 0, example.output
        losses = [float(loss) for loss in re.findall(r"sentences: held-out loss (\S+) nats/byte", example.output)]
        assert len(losses) == 3
        assert losses == sorted(losses, reverse=True)
        assert losses[0] == pytest.approx(np.log(256), abs=0.001)
        assert losses[-1] < LOSS_MAX
        assert f"the held-out loss fell from {losses[0]:.3f} to {losses[-1]:.3f} nats/byte" in example.output
        shares = [int(count) for count in re.findall(r"loader-\d has (\d+) sentences", example.output)]
        assert len(shares) == loaders
        assert f"each of the {sum(shares)} sentences arrived exactly once in each of the 2 epochs" in example.output
        assert len(example.pids) == 1 + 1 + loaders + 1
        assert example.leftovers() == []


@pytest.mark.parametrize(
    ("name", "moment", "code", "reason"),
    [
        pytest.param("run.py", r"[1-9]\d* sentences: held-out loss", 130, "", id="run", marks=at_night),
        pytest.param(
            "loader-1",
            r"loader-1 has",
            1,
            r"^run.py: (loader-1 ended with exit code 130|trainer ended with exit code 1)$",
            id="loader",
            marks=at_night,
        ),
        pytest.param("trainer", r"held-out loss", 1, r"^run.py: trainer ended with exit code 130$", id="trainer"),
    ],
)
def test_an_interrupt_ends_all_of_the_sentences(name: str, moment: str, code: int, reason: str) -> None:
    """Whichever part it comes to: there is no traceback, and no process or file is left."""
    with started("sentences/run.py", "--loaders", "3", "--epochs", "1000") as example:
        example.read_until(moment)
        interrupted = monotonic()
        example.interrupt(name)
        assert example.finish() == code, example.output
        assert monotonic() - interrupted < INTERRUPTED_S
        assert re.search(reason, example.output, re.MULTILINE), example.output
        assert "Traceback" not in example.output
        assert example.leftovers() == []


def check_shared_model(example: Example) -> None:
    """Both trainers have found it good enough, and nothing is left."""
    found = re.findall(r"trainer\d +\| the shared model recognises (\S+)% of the test images", example.output)
    assert len(found) == 2, example.output
    assert min(map(float, found)) >= ACCURACY_MIN, example.output
    assert example.leftovers() == []


@pytest.mark.timeout(120)  # eight processes, most of whose time is their start
def test_a_cluster_trains_variables_that_two_workers_share() -> None:
    """By one command; both trainers find the same model good enough, and nothing is left behind."""
    with started("cluster/run.py", "--steps", "350") as example:
        assert example.finish() == 0, example.output
        check_shared_model(example)
        assert "Traceback" not in example.output
        assert len(example.pids) == 1 + 4 + 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("killed", "told"),
    [
        pytest.param(["/job:worker/task:0"], ["trainer0"], id="worker"),
        pytest.param(["loader", "trainer1"], [], id="programs", marks=at_night),
        # The queue, and every second variable; or variables alone.
        pytest.param(["/job:ps/task:0"], ["loader", "trainer0", "trainer1"], id="ps-with-the-queue"),
        pytest.param(["/job:ps/task:1"], ["trainer0", "trainer1"], id="ps", marks=at_night),
    ],
)
def test_a_cluster_goes_on_without_what_is_killed(killed: list[str], told: list[str]) -> None:
    """Who used it gets a typed error in time, nobody waits for ever, and the model is good enough in the end."""
    with started("cluster/run.py", "--steps", "350") as example:
        for trainer in ("trainer0", "trainer1"):  # who has not begun when a server is lost never learns of it
            example.read_until(rf"^{trainer} +\| step 1 here")
        killed_at = monotonic()
        for name in killed:
            example.kill_one(name)
        for name in told:
            example.read_until(rf"^{name} +\| (ConnectionLost|NotInitialised|QueueReset): ")
        assert monotonic() - killed_at < TOLD_S
        assert example.finish() == 0, example.output
        check_shared_model(example)
        again = re.findall(r"^(\S+) +\| started as process", example.output, re.MULTILINE)
        assert {name for name in again if again.count(name) > 1} >= set(killed)


@pytest.mark.timeout(120)
def test_ctrl_c_ends_a_cluster_in_order() -> None:
    """Within the launcher's bound, without a traceback, a process or a file that is left."""
    with started("cluster/run.py", "--steps", "100000") as example:
        example.read_until(r"trainer0 +\| step 50 here")
        interrupted = monotonic()
        example.interrupt("run.py")
        assert example.finish() == 130, example.output
        assert monotonic() - interrupted < DOWN_S
        assert "Traceback" not in example.output
        assert example.leftovers() == []
