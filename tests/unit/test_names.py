"""Names: addresses, device names and shared names."""

from __future__ import annotations

from typing import Any

import pytest

from aioflow.errors import ConnectFailed, PlacementError, SpecMismatch
from aioflow.names import DeviceName, address_scheme, check_job_name, check_shared_name, normalise_address

# Addresses


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp://host:1", "tcp://host:1"),
        ("ipc:///tmp/flow.sock", "ipc:///tmp/flow.sock"),
        ("inproc://name", "inproc://name"),
        ("x+y.z-1://anything at all", "x+y.z-1://anything at all"),
        ("host:2222", "tcp://host:2222"),
        ("127.0.0.1:0", "tcp://127.0.0.1:0"),
        ("host:*", "tcp://host:*"),
        ("[::1]:2222", "tcp://[::1]:2222"),
    ],
)
def test_an_address_has_a_scheme(address: str, expected: str) -> None:
    """A bare host and port mean TCP; whatever has a scheme is left as it is."""
    assert normalise_address(address) == expected
    assert address_scheme(address) == expected.partition("://")[0]


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":1",
        "host:port",
        "::1:2222",
        "tcp://",
        "://x",
        "TCP://host:1",
        "a b:1",
        "host:٣",
        "h:123456",
    ],
)
def test_what_is_no_address(address: str) -> None:
    """The error says which forms there are."""
    with pytest.raises(ConnectFailed, match="is no address: expected ipc:///path, shm:///path, tcp://host:port"):
        normalise_address(address)


# Device names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", DeviceName()),
        ("/", DeviceName()),
        ("/job:ps", DeviceName(job="ps")),
        ("/job:ps/task:1", DeviceName(job="ps", task=1)),
        ("/task:1/job:ps", DeviceName(job="ps", task=1)),
        ("job:ps/task:1", DeviceName(job="ps", task=1)),
        ("/job:ps/replica:0/task:0/device:CPU:0", DeviceName("ps", 0, "CPU", 0)),
        ("/job:ps/replica:*", DeviceName("ps")),
        ("/cpu:0", DeviceName(kind="CPU", index=0)),
        ("gpu:1", DeviceName(kind="GPU", index=1)),
        ("/GpU:1", DeviceName(kind="GPU", index=1)),
        ("/gpu", DeviceName(kind="GPU")),
        ("/gpu:*", DeviceName(kind="GPU")),
        ("/device:FOO:3", DeviceName(kind="FOO", index=3)),
        ("/device:GPU:*", DeviceName(kind="GPU")),
        ("/task:*", DeviceName()),
        ("/job:a/job:b", DeviceName(job="b")),
        ("/task:1/task:2", DeviceName(task=2)),
        ("/task:1/task:*", DeviceName()),
        ("/job:", DeviceName(job="")),
        ("/task:-1", DeviceName(task=-1)),
    ],
)
def test_parsing_a_device_name(text: str, expected: DeviceName) -> None:
    """Each part is optional, in any order; of one that repeats the last holds; the first slash may be left out."""
    assert DeviceName.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("/job", "/jobs:a", "/job:1a", "/job:a:b", "/job:ä", "cpu 0", "//job: "),
        *("/task:a", "/task:", "/task:1.0", "/task:٣", "/task:99999999999"),
        *("/foo:1", "/device:CPU", "/device:1:0", "/device:CPU:0:0", "/cpu:a", "/cpu:-1", "/cpu:"),
        *("/cpu:0/cpu:0", "/cpu:0/gpu:0", "/gpu/device:CPU:0", "/replica:1", "/job:a\n"),
    ],
)
def test_what_is_no_device_name(text: str) -> None:
    """Unknown parts, parts without their value, and two devices are refused, with an example of how it is written."""
    with pytest.raises(PlacementError, match="is no device name: expected parts such as /job:worker"):
        DeviceName.parse(text)


@pytest.mark.parametrize(
    ("outer", "inner", "expected"),
    [
        ("/job:a/task:1", "/gpu:3", "/job:a/task:1/device:GPU:3"),
        ("/job:a/task:1", "/job:b", "/job:b/task:1"),
        ("/job:a", "/task:0", "/job:a/task:0"),
        ("/gpu:1", "/cpu:*", "/device:CPU:*"),
        ("/gpu:1", "/gpu:*", "/device:GPU:1"),
        ("/gpu:1", "/gpu:0", "/device:GPU:0"),
        ("/gpu:*", "/gpu:0", "/device:GPU:0"),
        ("/gpu:1", "/task:2", "/task:2/device:GPU:1"),
        ("/gpu:1", "", "/device:GPU:1"),
        ("", "/gpu:1", "/device:GPU:1"),
    ],
)
def test_merging_device_names(outer: str, inner: str, expected: str) -> None:
    """Per field the inner one wins; a new type without an index clears the index."""
    assert str(DeviceName.parse(outer).merge(DeviceName.parse(inner))) == expected


@pytest.mark.parametrize("job", [None, "ps"])
@pytest.mark.parametrize("task", [None, 0, 12])
@pytest.mark.parametrize(("kind", "index"), [(None, None), ("CPU", None), ("GPU", 3)])
def test_a_device_name_is_printed_as_it_is_read(
    job: str | None, task: int | None, kind: str | None, index: int | None
) -> None:
    """Printing and parsing are inverse."""
    name = DeviceName(job, task, kind, index)
    assert DeviceName.parse(str(name)) == name


# Other names


@pytest.mark.parametrize("name", ["", "train", "a/b c", "ä", "a_"])
def test_shared_names(name: str) -> None:
    """Nearly any string is a shared name."""
    check_shared_name(name)


@pytest.mark.parametrize(("name", "text"), [("_a", "starts with an underscore"), (5, "must be a string, got 5")])
def test_what_is_no_shared_name(name: Any, text: str) -> None:
    """Names with an underscore in front are the framework's own; the message names what the name is for."""
    with pytest.raises(SpecMismatch, match=f"container .*{text}|container {text}"):
        check_shared_name(name, "container")


@pytest.mark.parametrize("job", ["", "1a", "a-b", "a:b", "a/b", "ä", None])
def test_what_is_no_job(job: Any) -> None:
    """A job whose name no device name could contain could not be placed on."""
    with pytest.raises(PlacementError, match="is no name of a job"):
        check_job_name(job)
    check_job_name("a_1")
