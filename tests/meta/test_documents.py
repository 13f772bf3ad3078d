"""What the documents say is so: programs print what stands below them, and commands and links are right."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from contextvars import copy_context
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from aioflow.cluster import parse_cluster
from tests.meta.wire_page import draw

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line on which the text begins."""

    language: str
    text: str
    line: int


def _blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in _FENCE.finditer(text)]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_programs_of_a_page_print_what_stands_below_them(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python blocks of a page, run one after the other; a block of text behind one is its output.

    Those with an await share an event loop; the others run outside of it.
    """
    namespace: dict[str, Any] = {}
    blocks = _blocks(page)
    context = copy_context()
    with asyncio.Runner() as runner:
        for block, below in zip_longest(blocks, blocks[1:]):
            if block.language == "python":
                # Moved down, so that a traceback shows the line of the page.
                tree = ast.parse("\n" * (block.line - 1) + block.text, str(page))
                code = compile(tree, str(page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                result = context.run(eval, code, namespace)
                if inspect.iscoroutine(result):
                    runner.run(result, context=context)
                expected = below.text if below is not None and below.language == "text" else ""
                assert capsys.readouterr().out == expected, f"{page.name}:{block.line}"
        left = [task for task in asyncio.all_tasks(runner.get_loop()) if not task.done()]
        assert not left, f"{page.name} leaves tasks behind: {left}"


def test_loader_and_trainer_of_the_readme(tmp_path: Path) -> None:
    """The programs run as the page says, with a server, and the trainer prints what stands there."""
    blocks = _blocks(README)
    address = f"ipc://{tmp_path}/s"
    for block in blocks:
        if block.language == "python" and (name := re.match(r"# (\w+\.py)", block.text)):
            (tmp_path / name[1]).write_text(block.text.replace("ipc:///tmp/flow.sock", address))
    commands = next(b.text for b in blocks if "python trainer.py" in b.text).replace("ipc:///tmp/flow.sock", address)
    serve, load, train = [
        [sys.executable, *(["-m", "aioflow"] if words[0] == "aioflow" else []), *words[1:]]
        for words in map(str.split, commands.splitlines())
    ]
    with subprocess.Popen(serve, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        try:
            with subprocess.Popen(train, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as trainer:
                subprocess.run(load, cwd=tmp_path, check=True)
                printed, _ = trainer.communicate()
        finally:
            server.terminate()
    assert trainer.returncode == 0
    assert server.returncode == 0
    assert printed == next(b.text for b in blocks if b.language == "text")


def test_commands_of_the_readme() -> None:
    """Both are one line, make an environment of their own, and do what the other places do that run the same."""
    commands = [line for b in _blocks(README) if b.language == "sh" for line in b.text.splitlines() if "venv" in line]
    form = re.compile(r"python3 -m venv (\S+) && \1/bin/pip install -q (?:-e )?'\.\[(\w+)\]' && \1/bin/python (.+)")
    found = [form.fullmatch(command) for command in commands]
    assert all(found), commands
    (run_venv, run_extra, run), (test_venv, test_extra, test) = [match.groups() for match in found if match]
    assert run_venv != test_venv
    assert (run_extra, test_extra) == ("examples", "dev")
    assert (ROOT / run.split()[0]).is_file()
    script = (ROOT / ".ci" / "run").read_text()
    assert f"-e '.[{test_extra}]'" in script
    assert f"/bin/python {test} " in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link is a file of the repository, and its anchor a heading there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), target
            anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in _headings(there)]
            assert not anchor or anchor in anchors, target


def _headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) if page.suffix == ".md" else []


def test_clusters_of_the_pages() -> None:
    """Each `cluster.toml` that is shown can be read."""
    clusters = [(page, block) for page in PAGES for block in _blocks(page) if block.language == "toml"]
    for page, block in clusters:
        assert parse_cluster(block.text, f"{page.name}:{block.line}").cluster
    assert clusters


def test_page_of_the_wire_is_current() -> None:
    """It is drawn from the table of messages."""
    assert (ROOT / "docs" / "wire.md").read_text() == draw(), "draw it anew: python tests/meta/wire_page.py"
