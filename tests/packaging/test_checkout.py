"""A checkout that is installed with `pip install -e`, beside nothing but its dependencies."""

import subprocess
import sys

_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(["sybil", "psutil"]))
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_the_conformance_suite_runs_without_what_our_own_tests_need(tmp_path):
    """Though pytest loads the conftest.py of the checkout, which collects the documents with Sybil."""
    options = ("--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--rootdir=.")
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, "--pyargs", "pytest_isolation.conformance", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_budgets.py::test_context" in done.stdout
