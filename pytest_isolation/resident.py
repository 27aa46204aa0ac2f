"""How much memory a process holds, as the system sees it."""

from __future__ import annotations

import os
import subprocess


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process; None where the system does not tell."""
    try:
        # Not by pathlib, whose open() keeps a string each time on Python 3.11: this is asked while memory is watched.
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            pages = int(file.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        pass
    try:
        done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)  # noqa: S603, S607
        return int(done.stdout) * 1024
    except (OSError, ValueError):
        return None
