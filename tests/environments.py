"""Virtual environments with old versions of libraries: made once, under the build folder."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(name: str, requirements: Sequence[str], extras: str | None = None) -> Path:
    """The Python of an environment.

    Args:
        name: of its folder under ``build``.
        requirements: what is installed into it, with versions; ``constraints.txt`` pins the rest.
        extras: of this plugin, which is installed beside them with pytest and pytest-asyncio; None leaves it out.
    """
    folder = ROOT / "build" / name
    python, made = folder / "bin" / "python", folder / "made-of.txt"
    beside = [] if extras is None else ["pytest", "pytest-asyncio", "--editable", f"{ROOT}{extras}"]
    text = "\n".join([*requirements, *beside])
    if not made.exists() or made.read_text() != text:
        venv.create(folder, clear=True)  # without pip of its own, which takes longer to install than the rest
        own = {_project(one) for one in requirements}
        pins = [pin for pin in (ROOT / "constraints.txt").read_text().splitlines() if _project(pin) not in own]
        (folder / "constraints.txt").write_text("\n".join(pins))
        pip = (
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "install",
            "--quiet",
            "--disable-pip-version-check",
        )
        constrained = ("--constraint", str(folder / "constraints.txt"))
        subprocess.run([*pip, *constrained, *requirements, *beside], check=True)
        made.write_text(text)
    return python


def _project(requirement: str) -> str:
    """Whose version is required, by its normalised name."""
    [name] = re.findall(r"^[\w.-]*", requirement)
    return re.sub(r"[-_.]+", "-", name).lower()
