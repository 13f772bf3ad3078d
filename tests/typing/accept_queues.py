"""Programs that a type checker must accept; nothing here is run. The types that are promised stand in `assert_type`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np

import aioflow as flow
from aioflow import blocking

if TYPE_CHECKING:
    from aioflow.transport import Connection, Frame, Listener, Receiver, Transport

train = flow.PaddingFIFOQueue(capacity=1024, dtypes=["int32", "int64"], shapes=[[None], []], shared_name="train")
shuffled = flow.RandomShuffleQueue(256, 128, dtypes=["float32", np.int64], shapes=[[64], []], seed=1, producers=3)
urgent = flow.PriorityQueue(8, dtypes=str, shapes=[[]], names=["priority", "text"], capacity_bytes=1_000_000)
plain = flow.FIFOQueue(8, [np.float32], device="/job:ps/task:0")


async def use() -> None:
    """Each operation, with the type of its result."""
    config = flow.SessionConfig(connect_s=5, gpu_options=flow.GPUOptions(allow_growth=False))
    async with flow.Session("ipc:///tmp/flow.sock", config=config) as session:
        assert_type(session, flow.Session)
        assert_type(await train.enqueue(([1, 2], 3)), None)
        assert_type(await train.enqueue_many((np.zeros((3, 2), np.int32), [1, 2, 3])), None)
        assert_type(await train.dequeue(), Any)
        assert_type(await train.dequeue_many(2), Any)
        assert_type(await train.dequeue_many(np.int64(2)), Any)
        assert_type(await train.dequeue_up_to(2), Any)
        assert_type(await train.size(), int)
        assert_type(await train.is_closed(), bool)
        assert_type(await train.stats(), flow.QueueStats)
        assert_type(await train.close(), None)
        assert_type(await train.close(cancel_pending_enqueues=True), None)
        assert_type(await train.delete(), None)


async def pipeline() -> None:
    """What is built of them keeps its type."""
    assert_type(shuffled.epoch(1), flow.RandomShuffleQueue)
    assert_type(train.on(flow.Session()), flow.PaddingFIFOQueue)
    async with shuffled.producer("loader-0", rejoin_s=5) as producer, shuffled.writer(batch=32) as writer:
        assert_type(producer, flow.Producer)
        assert_type(producer.name, str)
        assert_type(writer, flow.Writer)
        assert_type(await writer.write((np.zeros(64), 1)), None)
        assert_type(await writer.flush(), None)
    async with shuffled.batches(32, drop_remainder=True, prefetch=4, copy=True, device="/gpu:0") as batches:
        assert_type(batches, flow.Batches)
        async for images, labels in batches:
            print(images.shape, labels)
    async for element in plain:
        print(element)


def wait() -> None:
    """The same without an event loop."""
    with blocking.Session("ipc:///tmp/flow.sock", config=flow.SessionConfig(connect_s=5)) as session:
        assert_type(session, blocking.Session)
        session.enqueue(train, ([1, 2], 3), timeout=0.5)
        session.enqueue_many(train, (np.zeros((3, 2), np.int32), [1, 2, 3]), timeout=1)
        assert_type(session.dequeue(train, timeout=None), Any)
        assert_type(session.dequeue_many(train, np.int64(2)), Any)
        assert_type(session.dequeue_up_to(train, 2), Any)
        assert_type(session.size(train), int)
        assert_type(session.is_closed(train), bool)
        assert_type(session.stats(train), flow.QueueStats)
        session.close_queue(train, cancel_pending_enqueues=True)
        session.delete(train)
        with session.producer(shuffled, "loader-0", rejoin_s=5) as producer, session.writer(shuffled, 32) as writer:
            assert_type(producer, blocking.Producer)
            assert_type(producer.name, str)
            assert_type(writer, blocking.Writer)
            writer.write((np.zeros(64), 1))
            writer.flush()
        for images, labels in session.batches(shuffled, 32, prefetch=4, copy=True, device="/gpu:0", timeout=5):
            print(images.shape, labels)
        with session.elements(plain) as elements:
            assert_type(elements, blocking.Batches)
            assert_type(next(elements), Any)


async def errors() -> None:
    """What an error carries has a type."""
    try:
        async with asyncio.timeout(1):
            await urgent.dequeue()
    except flow.EndOfQueue as end:
        for lost in end.lost_producers:
            assert_type(lost, flow.LostProducer)
            print(lost.name, lost.reason, lost.traceback)
    except flow.RemoteError as error:
        assert_type(error.traceback_text, str)


async def serve() -> None:
    """A server, for a cluster in either form."""
    cluster = flow.ClusterSpec({"ps": ["127.0.0.1:2221"], "worker": {0: "127.0.0.1:2222"}})
    async with flow.Server(cluster, job_name="ps", task_index=0) as server, flow.Session(server):
        assert_type(server.address, str)
        with flow.device("/job:ps/task:0"), flow.container("experiment-7"):
            found = flow.lookup("train")
        assert_type(await found.size(), int)
        await server.join()


class OwnTransport:
    """A transport outside the repository fits the protocol by its shape."""

    async def connect(self, address: str, receiver: Receiver, task_group: Any) -> Connection:
        """Connect."""
        raise NotImplementedError

    async def listen(self, address: str, accept: Any, task_group: Any) -> Listener:
        """Listen."""
        raise NotImplementedError

    async def beat(self, address: str, make: Any, read: Any, every_s: float) -> None:
        """Need no beats."""


own: Transport = OwnTransport()
frame: Frame = b""
