"""What the tests of reliability share: a server, clients in processes of their own, and the table of figures."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.integration.reliability.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.integration.conftest import Program

FOLDER = Path(__file__).parent
FIGURES = pytest.StashKey[list[tuple[str, str, str]]]()


class StartServer(Protocol):
    """Start a server and wait until it is ready; returns the program and its address."""

    def __call__(
        self, scheme: str, *, bind: str | None = None, config: dict[str, float] | None = None, **where: Any
    ) -> tuple[Program, str]: ...


class StartClient(Protocol):
    """Start `producer` or `consumer` under a number; the settings are those that their files name.

    `where` has `run_program`'s `keys` and `namespace`.
    """

    def __call__(
        self, role: str, number: int, address: str, where: dict[str, Any] | None = None, /, **settings: Any
    ) -> Client: ...


class Figure(Protocol):
    """Add a line to the table at the end: what was measured, and its value with its unit."""

    def __call__(self, what: str, value: object) -> None: ...


@pytest.fixture
def start_server(run_program: Callable[..., Program], new_address: Callable[[], str]) -> Iterator[StartServer]:
    """Start `aioflow serve`, or a server with settings of its own; those that a failed test leaves are ended."""
    programs: list[Program] = []

    def start(
        scheme: str, *, bind: str | None = None, config: dict[str, float] | None = None, **where: Any
    ) -> tuple[Program, str]:
        address = bind or ("tcp://127.0.0.1:0" if scheme == "tcp" else new_address())
        if config is None:
            program = run_program("-m", "aioflow", "serve", "--bind", address, **where)
        else:
            program = run_program(str(FOLDER / "server.py"), address, json.dumps(config), **where)
        programs.append(program)
        return program, program.read_line().removeprefix("aioflow serves at ")

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGCONT)
            program.end_by(signal.SIGTERM)


@pytest.fixture
def start_client(run_program: Callable[..., Program]) -> Iterator[StartClient]:
    """Start clients; none outlives the test."""
    clients: list[Client] = []

    def start(role: str, number: int, address: str, where: dict[str, Any] | None = None, /, **settings: Any) -> Client:
        defaults = {"config": {}, "queue": {"capacity": 200}, "bytes": 8, "rows": 1}
        own = {"parallel": 1, "count": None, "rejoin_s": 0} if role == "producer" else {"how": "dequeue"}
        arguments = (str(FOLDER / f"{role}.py"), str(number), json.dumps({**defaults, **own, **settings}))
        clients.append(Client(run_program(*arguments, target=address, **where or {}), f"{role} {number}"))
        return clients[-1]

    yield start
    for client in clients:
        client.kill()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """Keep a figure for the table at the end."""
    rows = request.config.stash.setdefault(FIGURES, [])

    def add(what: str, value: object) -> None:
        rows.append((request.node.name, what, str(value)))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    rows = config.stash.get(FIGURES, [])
    if rows:
        terminalreporter.section("reliability in figures")
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for test, what, value in rows:
            terminalreporter.write_line(f"{test:<{widths[0]}}  {what:<{widths[1]}}  {value}")
