"""Other plugins and conftest files may add an oracle, normalise an observation, allow a finding."""

SOURCE = """
    import anyio, pytest
    queue = []
    @pytest.mark.asyncio
    @pytest.mark.isolation(users=4)
    async def test(user):
        queue.append(user)
        await anyio.sleep(0.001)
        user.observe({"me": user.id, "position": len(queue)})
        queue.remove(user)
"""


def test_an_observation_can_be_normalised(suite, pytester):
    """A queue position is not the backend's fault."""
    suite(SOURCE).assert_outcomes(failed=1)
    pytester.makeconftest(
        """
        from dataclasses import replace
        def pytest_isolation_normalise(observation):
            return replace(observation, value={**observation.value, "position": "any"})
        """
    )
    suite(SOURCE).assert_outcomes(passed=1)


def test_normalising_hides_no_canary(suite, pytester):
    """The search for foreign secrets looks at the observation as it was."""
    pytester.makeconftest(
        """
        from dataclasses import replace
        def pytest_isolation_normalise(observation): return replace(observation, value="the same for all")
        """
    )
    result = suite(SOURCE.replace("len(queue)", "[u.id for u in queue]"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK  user-00 received the secret 'id' of user-*"])


def test_a_finding_can_be_allowed_with_a_reason(suite, pytester):
    """The report keeps it as a note."""
    pytester.makeconftest(
        """
        def pytest_isolation_allow(finding):
            return "positions are public" if "position" in finding.channel else None
        """
    )
    result = suite(SOURCE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*allowed: user-00 saw another response than alone, and 7 more (positions are public)"]
    )


def test_an_oracle_can_be_added(suite, pytester):
    """It reads the same evidence as ours."""
    pytester.makeconftest(
        """
        from pytest_isolation.model import Finding, Kind
        def too_slow(evidence, story):
            for run in evidence.runs:
                if run.seconds > 0: yield Finding(Kind.FAILED, run.user, evidence.phase, f"{run.user} took its time")
        def pytest_isolation_oracles(): return [too_slow]
        """
    )
    result = suite(SOURCE.replace("len(queue)", "0"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["FAILED  user-00 took its time"])


def test_a_fault_of_an_oracle_is_shown_as_one(suite, pytester):
    """It is not the test's, and never silent."""
    pytester.makeconftest(
        """
        def broken(evidence, story): raise ZeroDivisionError("oops")
        def pytest_isolation_oracles(): return [broken]
        """
    )
    result = suite(SOURCE.replace("len(queue)", "0"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*ZeroDivisionError: oops",
            "*PluginFault: the oracle broken failed: ZeroDivisionError: oops*not the test's fault*",
        ]
    )
