"""Joins the two houses for our own suite, and lets what README and docs show run in it."""

from __future__ import annotations

import fnmatch
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from sybil import Example

pytest_plugins = ["pytester"]

_NAME = re.compile(r"# (\w+\.py)\n")
_INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\naddopts = -p no:cacheprovider -p no:hypothesispytest\n"

_PROGRAMS = {
    "pytest": ("-m", "pytest"),
    "isolation": ("-c", "import sys; from pytest_isolation.cli import main; main(sys.argv[1:])"),
}


def _in_turn(play: Callable[[Example], None]) -> Callable[[Example], None]:
    """Plays a block when all before it in its document have been: xdist may have given those to another worker."""

    def played(example: Example) -> None:
        done = example.namespace["done"]
        for one in example.document.examples():
            if one.line < example.line and one.line not in done:
                one.evaluate()
        done.add(example.line)
        play(example)

    return played


@_in_turn
def _write(example: Example) -> None:
    """A block that begins with a file's name is that file, in a folder of the document's own."""
    name = _NAME.match(example.parsed)
    assert name, f"{example.path}:{example.line}: a block of Python begins with the name of its file"
    (example.namespace["folder"] / name[1]).write_text(example.parsed, encoding="utf-8")


@_in_turn
def _run(example: Example) -> None:
    """A session of a terminal: `$ pytest` and `$ isolation` are run, and the output must match; `...` is anything."""
    command, *expected = example.parsed.rstrip("\n").split("\n")
    _, program, *options = command.split()
    if program not in _PROGRAMS or not expected or expected[0].startswith("$"):
        return
    arguments = [sys.executable, *_PROGRAMS[program], *options]
    done = subprocess.run(  # noqa: S603 - what our own documents say
        arguments, cwd=example.namespace["folder"], capture_output=True, text=True, check=False
    )
    pattern = _literal("\n".join(expected)).replace("...", "*")
    shown = re.sub(r"\x1b\[\d*m", "", done.stdout)
    assert fnmatch.fnmatchcase(shown.strip(), pattern.strip()), f"expected:\n{pattern}\n\ngot:\n{shown}{done.stderr}"


def _literal(text: str) -> str:
    return re.sub(r"[\[*?]", lambda match: f"[{match[0]}]", text)


def _setup(namespace: dict[str, Any]) -> None:
    namespace["done"] = set()
    namespace["temporary"] = tempfile.TemporaryDirectory()
    namespace["folder"] = Path(namespace["temporary"].name)
    (namespace["folder"] / "pytest.ini").write_text(_INI, encoding="utf-8")


def _teardown(namespace: dict[str, Any]) -> None:
    namespace["temporary"].cleanup()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    return _documents()(file_path, parent) if file_path.suffix == ".md" else None


@functools.cache
def _documents() -> Callable[[Path, pytest.Collector], pytest.Collector | None]:
    """Imports Sybil only where there is a document: this file is loaded too by who runs the conformance suite of a
    checkout that is installed (`pip install -e`), and need not have what our own tests need.
    """
    from sybil import Sybil
    from sybil.parsers.markdown import CodeBlockParser

    return Sybil(
        parsers=[CodeBlockParser("python", _write), CodeBlockParser("console", _run)],
        patterns=["README.md", "docs/**/*.md"],
        setup=_setup,
        teardown=_teardown,
    ).pytest()
