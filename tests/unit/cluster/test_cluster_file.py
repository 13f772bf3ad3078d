"""`cluster.toml`: its tables, and what is said of those that are malformed."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import aioflow as flow
from aioflow.cluster import ClusterSpec, parse_cluster, read_cluster
from aioflow.cluster._cluster_file import format_cluster
from aioflow.cluster._programs import Program

WHOLE = """
[jobs]
ps = ["127.0.0.1:2221"]
worker = {0 = "ipc:///w0", 3 = "ipc:///w3"}

[config]
lost_s = 5
heartbeat_s = 0.5
allow_soft_placement = true
gpu_options = {per_process_gpu_memory_fraction = 0.5, visible_device_list = "0"}

[devices]
"/job:worker/task:3" = "0,1"
"/job:ps/task:0" = ""

[programs]
loader = ["python", "loader.py"]
trainer = {command = ["python", "trainer.py"], count = 2, target = "/job:worker/task:3", env = {A = "b"}}
"""


def test_all_tables(tmp_path: Path) -> None:
    """Each is what it is elsewhere: a ClusterSpec, a SessionConfig, what tasks see, programs."""
    path = tmp_path / "cluster.toml"
    path.write_text(WHOLE)
    read = read_cluster(path)
    assert read == parse_cluster(WHOLE, "here")
    assert read.cluster == {"ps": {0: "127.0.0.1:2221"}, "worker": {0: "ipc:///w0", 3: "ipc:///w3"}}
    options = flow.GPUOptions(per_process_gpu_memory_fraction=0.5, visible_device_list="0")
    assert read.config == flow.SessionConfig(lost_s=5, heartbeat_s=0.5, allow_soft_placement=True, gpu_options=options)
    assert read.devices == {("worker", 3): "0,1", ("ps", 0): ""}
    assert read.programs == [
        Program("loader", ("python", "loader.py"), ("ps", 0)),
        Program("trainer", ("python", "trainer.py"), ("worker", 3), 2, {"A": "b"}),
    ]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[config]\nlost = 5", flow.PlacementError, r"table \[config\]: has 'lost'; expected no more than .*lost_s"),
        (
            "[config]\nlost_s = '5'",
            flow.PlacementError,
            r"table \[config\]: lost_s is '5'; expected a value of type float",
        ),
        ("[config]\nlost_s = true", flow.PlacementError, "lost_s is True"),
        ("[config]\nallow_soft_placement = 1", flow.PlacementError, "allow_soft_placement is 1; .* of type bool"),
        ("[config]\ngpu_options = 1", flow.PlacementError, r"gpu_options is 1; expected a value of type GPUOptions"),
        ("[config.gpu_options]\nx = 1", flow.PlacementError, "has 'x'; expected no more than per_process"),
        ("[config]\nlost_s = 0", flow.SpecMismatch, r"table \[config\]: lost_s is 0; expected seconds above 0"),
        ("[devices]\n'/job:a/task:0' = 0", flow.PlacementError, r"table \[devices\]: /job:a/task:0 sees 0; expected a"),
        (
            "[devices]\n'/job:b/task:0' = '0'",
            flow.PlacementError,
            r"\[devices\]: devices of '/job:b/task:0': the cluster",
        ),
        ("[devices]\na = '0'", flow.PlacementError, r"table \[devices\]: devices of 'a': 'a' is no device name"),
        ("[programs]\np = 'x'", flow.PlacementError, r"table \[programs\]: program 'p': expected a command"),
        ("[program]\np = ['x']", flow.PlacementError, "has 'program'; expected no more than the tables"),
    ],
)
def test_what_is_malformed(text: str, error: type[Exception], message: str) -> None:
    """The message names the file, the table, what was expected and what came."""
    with pytest.raises(error, match=f"^here: .*{message}"):
        parse_cluster("jobs = {a = ['ipc:///a']}\n" + text, "here")


PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
JOBS = st.text(string.ascii_letters, min_size=1)
TASKS = st.dictionaries(st.integers(0, 99), PATHS.map("ipc:///{}".format))


@given(
    st.dictionaries(JOBS, TASKS),
    st.builds(
        flow.SessionConfig,
        lost_s=st.floats(2, 50),
        session_s=st.floats(60),
        allow_soft_placement=st.booleans(),
        inter_op_parallelism_threads=st.integers(0, 99),
        gpu_options=st.builds(
            flow.GPUOptions, per_process_gpu_memory_fraction=st.none() | st.floats(0, 1, exclude_min=True)
        ),
    ),
)
def test_a_cluster_is_read_as_it_was_written(jobs: dict[str, dict[int, str]], config: flow.SessionConfig) -> None:
    """Whatever is in its addresses and settings: a supervisor hands it to its servers so."""
    cluster = ClusterSpec(jobs)
    read = parse_cluster(format_cluster(cluster, config), "here")
    assert read.cluster == cluster
    assert read.cluster.jobs == cluster.jobs
    assert read.config == config
