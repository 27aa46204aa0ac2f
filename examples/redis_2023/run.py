"""Runs the test with redis-py 4.5.1 and 4.5.5, each in an environment of its own, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from environments import environment  # noqa: E402 - the repository's own
from servers import valkey  # noqa: E402

FAULTY, REPAIRED = "4.5.1", "4.5.5"


def play(version: str, url: str) -> int:
    """Run the test once; pytest's exit code."""
    print(f"\nredis-py {version}", flush=True)
    python = environment(f"examples/redis-{version}", [f"redis=={version}"], extras="")
    command = (str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "pytest.ini")
    return subprocess.run(command, cwd=HERE, env={**os.environ, "REDIS_URL": url}, check=False).returncode


def main() -> int:
    """0 if the faulty version is caught and the repaired one passes, as often as was asked for."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    with valkey() as server:
        codes = [(play(FAULTY, server.url), play(REPAIRED, server.url)) for _ in range(times)]
    caught, passed = (sum(pair[n] == n_code for pair in codes) for n, n_code in ((0, 1), (1, 0)))
    print(f"\nredis-py {FAULTY} was caught {caught} times of {times}, {REPAIRED} passed {passed} times of {times}")
    return 0 if caught == passed == times else 1


if __name__ == "__main__":
    sys.exit(main())
