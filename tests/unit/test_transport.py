"""A transport is found by the scheme of an address, among those in use here and then among those installed."""

from __future__ import annotations

import asyncio

import pytest

from aioflow.errors import ConnectFailed
from aioflow.transport import find_transport, use_transport
from aioflow_inproc import InprocTransport


def test_a_transport_in_use_comes_first() -> None:
    """Within the block, inner ones over outer ones, and in the tasks that are started in it."""
    first, second = InprocTransport(), InprocTransport()

    async def look() -> object:
        return find_transport("mine://a")

    with use_transport("mine", first), use_transport("inproc", second):
        assert asyncio.run(look()) is first
        assert find_transport("inproc://a") is second
        with use_transport("mine", second):
            assert find_transport("mine://a") is second
        assert find_transport("mine://a") is first
    assert find_transport("inproc://a") is not second
    with pytest.raises(
        ConnectFailed, match="no transport for 'mine://a': the schemes that are installed here are inproc"
    ):
        find_transport("mine://a")
