"""TensorFlow's queues on a server of its own, over grpc: sessions that run the operations of a graph.

Elements and chunks are fed, one `session.run` for each. It makes batches itself, and pads them.
"""

from __future__ import annotations

import multiprocessing
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.elements import Elements
from benchmarks.meter import Meter
from benchmarks.systems.producer import producing

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from benchmarks.measurement import Measurement
    from benchmarks.workloads import Workload

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "", "GRPC_VERBOSITY": "ERROR"}
tensorflow: Any = import_module("tensorflow")  # types are checked where there is none, too
tf: Any = tensorflow.compat.v1


class Queue:
    """A queue on the server, and what puts into it and takes out of it, in a session of this process."""

    def __init__(self, workload: Workload, address: str, name: str) -> None:
        dtypes = [workload.dtype, "int64"]
        with tf.Graph().as_default() as graph, graph.device("/job:localhost/task:0/cpu:0"):
            shapes = [[None] if workload.is_padded else workload.shape, []]
            kind = tf.PaddingFIFOQueue if workload.is_padded else tf.FIFOQueue
            queue = kind(workload.capacity, dtypes, shapes, shared_name=name)
            fed = [tf.placeholder(dtype) for dtype in dtypes]
            session = tf.Session(address, graph=graph)
            if workload.chunk:
                self.put = session.make_callable(queue.enqueue_many(fed), fed)
            else:
                for placeholder, shape in zip(fed, shapes, strict=True):
                    placeholder.set_shape(shape)
                self.put = session.make_callable(queue.enqueue(fed), fed)
            self.get = session.make_callable(queue.dequeue_many(workload.batch) if workload.batch else queue.dequeue())


def consume(workload: Workload) -> Measurement:
    """Take what producers put into a queue of a server; see `benchmarks.systems`."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,))
    server.start()
    try:
        address: str = ours.recv()
        with producing(_produce, workload, address):
            return _consume(workload, address)
    finally:
        server.kill()  # it knows no other end
        server.join()


def _serve(ready: Connection) -> None:
    server = tf.train.Server.create_local_server()
    ready.send(server.target)
    server.join()


def _consume(workload: Workload, address: str) -> Measurement:
    meter, queue = Meter(workload), Queue(workload, address, "there")
    if workload.there_and_back:
        elements, back = Elements(workload), Queue(workload, address, "back")
        for number in range(workload.total):
            queue.put(*elements[number])
            meter.element(*back.get())
        return meter.result()
    while meter.count < workload.total:
        (meter.batch if workload.batch else meter.element)(*queue.get())
    return meter.result()


def _produce(workload: Workload, producer: int, address: str) -> None:
    queue, elements = Queue(workload, address, "there"), Elements(workload)
    if workload.there_and_back:
        back = Queue(workload, address, "back")
        for _ in range(workload.total):
            back.put(*queue.get())
    elif workload.chunk:
        for number in range(workload.total // workload.chunk):
            queue.put(*elements.chunk(number))
    else:
        for number in workload.numbers(producer):
            queue.put(*elements[number])
