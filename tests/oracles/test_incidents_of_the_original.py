"""The incidents I1 to I27 of the backend that came before, rebuilt small: faulty and repaired, in the default configuration.

tests/incidents/original has a file for each.
"""

import re
from pathlib import Path

# pytester forgets what an inner run has imported, and these do not bear being imported twice.
import aiosqlite  # noqa: F401
import pytest
import sqlalchemy.dialects.sqlite.aiosqlite
import sqlalchemy.ext.asyncio  # noqa: F401

FOLDER = Path(__file__).parents[1] / "incidents" / "original"
INCIDENTS = sorted(path.stem for path in FOLDER.glob("i*.py"))
LENIENT = ("-W", "ignore::pytest_isolation.IsolationWarning")


def source(name, faulty):
    text = (FOLDER / f"{name}.py").read_text()
    assert text.count("FAULTY = True") == 1
    return text.replace("FAULTY = True", f"FAULTY = {faulty}"), re.search(r'^FOUND = "(\w+)"$', text, re.MULTILINE)[1]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", INCIDENTS)
def test_an_incident_is_found(suite, name):
    """As what the file says, by an oracle; nothing is no fault."""
    text, found = source(name, faulty=True)
    result = suite(text, *LENIENT)
    if found == "nothing":
        result.assert_outcomes(passed=1)
        return
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{found.upper()}  *"])


def test_their_repairs_pass(several):
    """With the same tests."""
    result = several([source(name, faulty=False)[0] for name in INCIDENTS], *LENIENT)
    result.assert_outcomes(passed=len(INCIDENTS))
