"""Plays every incident with the faulty and with the repaired version, in environments of their own, some at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from environments import environment  # noqa: E402 - the repository's own

VARIANTS = ("buggy", "fixed")
# Of all together, once their environments have been made.
AIM_S = 90


@dataclass(frozen=True)
class Incident:
    """A published fault.

    Attributes:
        name: of its folder.
        kinds: of the findings, one of each test at least.
        extras: of the plugin, which is played inside its environment; None serves the application from there instead.
    """

    name: str
    kinds: tuple[str, ...]
    extras: str | None = ""


INCIDENTS = (
    Incident("aiocache_class_dict", ("leak",)),
    Incident("asgiref_local_del", ("different",)),
    Incident("channels_asgihandler_session", ("different",), "[asgi]"),
    Incident("flask_vary_cookie_2023", ("cacheable", "leak"), None),
    Incident("pattern_pool_emitter_cancel", ("leak",)),
    Incident("sentry_threading_scope", ("leak",)),
    Incident("strawberry_cached_extensions", ("leak",)),
    Incident("twisted_pipeline_2023", ("leak",), None),
    Incident("uvicorn_lifespan_state", ("leak",), None),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one variant.

    Attributes:
        incident: which.
        variant: buggy or fixed.
        is_right: the buggy one was found by what it should be found by, the fixed one passed.
        findings: how many, by kind.
        seconds: how long it took, without the making of the environment.
        said: pytest's words, for when it is wrong.
    """

    incident: Incident
    variant: str
    is_right: bool
    findings: dict[str, int]
    seconds: float
    said: str


def play(incident: Incident, variant: str) -> Outcome:
    """One test run."""
    folder = HERE / incident.name
    requirements = (folder / f"{variant}.txt").read_text().split("\n")
    python = environment(f"incidents/{incident.name}-{variant}", [*filter(None, requirements)], incident.extras)
    tests = sys.executable if incident.extras is None else str(python)
    variables = {"INCIDENT_PYTHON": str(python), "INCIDENT_VARIANT": variant}
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.json"
        options = ("-q", "-p", "no:cacheprovider", "-c", "../pytest.ini", f"--isolation-report={report}")
        begun = perf_counter()
        ended = subprocess.run(
            [tests, "-m", "pytest", *options, "case.py"],
            cwd=folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = perf_counter() - begun
        results = json.loads(report.read_text())["results"] if report.exists() else []
    kinds = [finding["kind"] for result in results for finding in result["findings"]]
    is_right = ended.returncode == 0 and bool(results)
    if variant == "buggy":
        is_right = ended.returncode == 1 and set(incident.kinds) <= set(kinds)
        is_right &= all(result["findings"] for result in results)
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    return Outcome(incident, variant, is_right, counts, seconds, ended.stdout + ended.stderr)


def main() -> int:
    """0 if every faulty version was caught and every repaired one passed, as often as was asked for."""
    times, names = int(next(iter(sys.argv[1:]), "1")), sys.argv[2:]
    chosen = [incident for incident in INCIDENTS if not names or incident.name in names]
    jobs = [(incident, variant) for incident in chosen for variant in VARIANTS]
    wrong, begun = 0, perf_counter()
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        for outcome in workers.map(play, *zip(*jobs * times, strict=True)):
            found = ", ".join(f"{count} {kind}" for kind, count in outcome.findings.items()) or "no finding"
            verdict = "as expected" if outcome.is_right else "WRONG"
            print(
                f"{outcome.incident.name:32}{outcome.variant:7}{found:40}{outcome.seconds:5.1f} s  {verdict}",
                flush=True,
            )
            if not outcome.is_right:
                wrong += 1
                print(outcome.said, flush=True)
    seconds = perf_counter() - begun
    aim = f", aim ≤ {AIM_S} s" if chosen == [*INCIDENTS] and times == 1 else ""
    print(f"{len(jobs) * times - wrong} of {len(jobs) * times} as expected, in {seconds:.0f} s{aim}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
