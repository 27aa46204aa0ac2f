"""``latency.compare(old, new)``: the test fails if the new one is proven slower."""

import json

import pytest

ASYNC = """
    import anyio, pytest
    from time import thread_time

    async def old():
        await anyio.sleep(0)
        work(0.0002)

    async def new():
        await anyio.sleep(0)
        work(0.0002 * {factor})

    def work(seconds):
        end = thread_time() + seconds
        while thread_time() < end:
            pass

    {mark}
    async def test_it(latency):
        await latency.compare(old, new)
"""
BOTH = """
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.mark.anyio"""


def test_slower_fails_on_any_loop(suite):
    """With the ratio, its interval, and how it was proven."""
    result = suite(ASYNC.format(factor=1.5, mark=BOTH))
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "SLOWER  new takes 1.* times as long as before (99 % interval * … *), tolerance 5 %",
            "  in * of * pairs *",
        ]
    )


@pytest.mark.parametrize("mode", ["strict", pytest.param("auto", marks=pytest.mark.soak)])
def test_as_fast_passes(suite, mode, pytester):
    """And the report has it."""
    mark = "@pytest.mark.asyncio" if mode == "strict" else ""
    result = suite(
        ASYNC.format(factor=1, mark=mark),
        f"--asyncio-mode={mode}",
        "--isolation-report=report.json",
        "--isolation-max-seconds=0.5",
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["1 comparison: 0 slower*"])
    [comparison] = json.loads((pytester.path / "report.json").read_text())["results"][0]["comparisons"]
    assert comparison["outcome"] in ("pass", "undecided")
    assert comparison["pairs"] >= 20


def test_functions_that_are_not_async_are_compared_too(suite):
    """In a copy of the Context each."""
    result = suite(
        """
        import time

        def test_it(latency):
            comparison = latency.compare_sync(lambda: time.sleep(0.0002), lambda: time.sleep(0.0001), name="nap")
            assert comparison.ratio < 1
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*NO SLOWER  nap takes 0.*"])


def test_workers_of_xdist_report_it(suite):
    """To their controller."""
    result = suite(ASYNC.format(factor=1.5, mark="@pytest.mark.asyncio"), "-n1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["1 comparison: 1 slower*"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("await latency.compare(None, new)", "*None cannot be called*latency.compare(old, new)*"),
        ("await latency.compare(old(), new)", "*a coroutine can be awaited only once*"),
        ("await latency.compare(old, lambda: None)", "*takes an async function*"),
        ("latency.compare_sync(old, new)", "*returned 'old' without awaiting it*"),
        ("await latency.compare(old, new, tolerance=-1)", "*a tolerance is a share, as 0.05 for 5 %, not -1*"),
        ("await latency.compare(old, new, tolerance='5%')", "*a tolerance is a share*"),
    ],
)
def test_wrong_use_is_refused_with_the_right_form(suite, call, said):
    """Nothing compared is no pass."""
    source = ASYNC.format(factor=1, mark="@pytest.mark.asyncio").replace("await latency.compare(old, new)", call)
    result = suite(source, "-Wignore")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_marker_would_repeat_it(suite):
    """So they do not go together."""
    result = suite(ASYNC.format(factor=1, mark="@pytest.mark.asyncio\n    @pytest.mark.latency(p95_ms=50)"))
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*compare() judges by itself: a marker would repeat it*"])
