"""ZeroMQ's PUSH and PULL by hand: pyzmq's own sockets, arrays as frames, batches made by the producer.

Small elements go one by one as one frame of payload and label. Images, and rows of several lengths, are gathered by the
producer to what the consumer wants at once. Large frames are sent without a copy, and arrays are made on top of those
received. High-water marks count messages: half of the capacity on each side.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import zmq

from benchmarks.elements import Elements, stack
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing
from benchmarks.systems.put_get import put_and_get, send_back

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

COPIED_BYTES = 1 << 16  # frames up to this size are cheaper to copy than to keep
LABEL_BYTES = 8


def consume(workload: Workload) -> Measurement:
    """Take what a producer pushes; see `benchmarks.systems`."""
    taken = multiprocessing.get_context("spawn").Event()
    with (
        tempfile.TemporaryDirectory() as folder,
        zmq.Context() as context,
        producing(_produce, workload, folder, taken),
        _socket(context, zmq.PULL, workload) as pull,
        _socket(context, zmq.PUSH, workload) as push,
    ):
        pull.bind(f"ipc://{folder}/there")
        push.bind(f"ipc://{folder}/back")
        if workload.there_and_back:
            measurement = put_and_get(lambda element: push.send(_packed(*element)), lambda: _one(pull), workload)
        else:
            measurement = _pull(pull, workload)
        taken.set()
        return measurement


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, workload: Workload) -> zmq.Socket[bytes]:
    socket = context.socket(kind)
    messages = workload.capacity // (workload.chunk or workload.batch or 1)
    socket.sndhwm = socket.rcvhwm = max(1, messages // 2)
    return socket


def _pull(pull: zmq.Socket[bytes], workload: Workload) -> Measurement:
    meter = Meter(workload)
    while meter.count < workload.total:
        if workload.payload_bytes < COPIED_BYTES and not workload.batch:
            meter.element(*_one(pull))
            continue
        payload_frame, label_frame = pull.recv_multipart(copy=False)
        payload = np.frombuffer(payload_frame.buffer, workload.dtype)
        labels = np.frombuffer(label_frame.buffer, np.int64)
        if workload.batch:
            shape = (-1,) if workload.is_padded else workload.shape
            meter.batch(payload.reshape(len(labels), *shape), labels)
        else:
            meter.element(payload.reshape(workload.shape), labels[0])
    return meter.result()


def _one(pull: zmq.Socket[bytes]) -> tuple[Any, Any]:
    message = pull.recv()
    return np.frombuffer(message, np.float32, (len(message) - LABEL_BYTES) // 4), np.frombuffer(
        message, np.int64, 1, len(message) - LABEL_BYTES
    )[0]


def _packed(payload: Any, label: Any) -> Any:
    return payload.tobytes() + label.tobytes()


def _produce(workload: Workload, producer: int, folder: str, taken: Event) -> None:
    with (
        zmq.Context() as context,
        _socket(context, zmq.PUSH, workload) as push,
        _socket(context, zmq.PULL, workload) as pull,
    ):
        push.connect(f"ipc://{folder}/there")
        pull.connect(f"ipc://{folder}/back")
        if workload.there_and_back:
            send_back(lambda: _one(pull), lambda element: push.send(_packed(*element)), workload)
        else:
            _push(push, workload, producer)
        taken.wait()  # a socket that is closed may lose what it has not sent, whatever its linger says


def _push(push: zmq.Socket[bytes], workload: Workload, producer: int) -> None:
    elements = Elements(workload)
    if workload.chunk:
        for number in range(workload.total // workload.chunk):
            push.send_multipart(elements.chunk(number))
    elif workload.batch:
        numbers = workload.numbers(producer)
        for first in range(0, len(numbers), workload.batch):
            payloads, labels = zip(*map(elements.__getitem__, numbers[first : first + workload.batch]), strict=True)
            frames: list[Any] = [stack(payloads), np.stack(labels)]
            push.send_multipart(frames, copy=frames[0].nbytes < COPIED_BYTES)
    else:
        for number in workload.numbers(producer):
            payload, label = elements[number]
            if payload.nbytes < COPIED_BYTES:
                push.send(_packed(payload, label))
            else:
                push.send_multipart((payload, label.tobytes()), copy=False)
