"""isolation.state_machine: what users do comes from Hypothesis, when they do it from the schedule."""

import pytest

SHOP = """
    import asyncio
    from hypothesis import strategies as st
    class Shop:
        def __init__(self):
            self.notes, self.draft = {}, None
    async def add(user, shop, text):
        await asyncio.sleep(0)
        shop.notes.setdefault(user.id, []).append(user.secret("note") + text)
    async def read(user, shop):
        await asyncio.sleep(0)
        return shop.notes.get(user.id, [])
    async def clear(user, shop):
        shop.notes.pop(user.id, None)
    async def draft(user, shop):
        shop.draft = user.secret("draft")
        await asyncio.sleep(0)
    async def publish(user, shop):
        for _ in range(2 * user.index):
            await asyncio.sleep(0)
        return shop.draft
    CORRECT = {add: {"text": st.text(max_size=3)}, read: {}, clear: {}}
"""


def machine(suite, call, *options, more=""):
    options = options or ("--isolation-seed=42",)  # chance chooses what is done
    return suite(SHOP + f"    def test_shop(isolation):\n        {call}\n{more}", *options)


def test_a_sequence_that_leaks_is_found_and_made_short(suite):
    """Two operations are enough: Hypothesis shows them, and the report who saw whose what."""
    result = machine(suite, "isolation.state_machine(Shop, {**CORRECT, draft: {}, publish: {}}, seconds=2)")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "LEAK  *the secret 'draft' of *",
            "  replay    pytest test_it.py::test_shop --isolation-replay=test:*",
            "*state.draft()",
            "*state.publish()",
        ]
    )
    result.stdout.no_fnmatch_line("*state.add(*")


def test_the_printed_command_finds_it_again(suite):
    """The seed determines what is done and in which order."""
    call = "isolation.state_machine(Shop, [draft, publish], steps=4, seconds=2, examples=20)"
    first = machine(suite, call)
    option = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = machine(suite, call, f"--{option}")
    told = [[line for line in run.outlines if line.startswith(("LEAK", "  phase"))] for run in (first, again)]
    assert told[0] == told[1] != []


def test_what_is_kept_apart_passes(suite):
    """In all of them."""
    call = "isolation.state_machine(Shop, CORRECT, seconds=2, examples=5)"
    machine(suite, call).assert_outcomes(passed=1)


def test_without_failing_the_report_has_the_findings(suite):
    """For a test that expects them."""
    call = "report = isolation.state_machine(Shop, [draft, publish], steps=4, seconds=2, examples=20, fail=False)"
    more = "        assert report.findings[0].kind == 'leak'\n"
    machine(suite, call, more=more).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("isolation.state_machine(Shop, [])", "*[[][]] are no operations: isolation.state_machine(*"),
        (
            "isolation.state_machine(Shop, {add: {}})",
            "*add takes (user, backend) and then [[]'text'], and there are strategies for nothing*",
        ),
        (
            "isolation.state_machine(Shop, {read: {'x': st.text()}})",
            "*read takes (user, backend) and then nothing, and there are strategies for [[]'x']*",
        ),
        ("isolation.state_machine(Shop, [len])", "*is no operation: async def add(user, backend, text)*"),
        ("isolation.state_machine(Shop, [read], users=1)", "*users=1: two users or more play a state machine*"),
        (
            "isolation.state_machine(Shop, [clear], examples=2)",
            "*in no sequence of operations the scenario observed nothing*",
        ),
    ],
)
def test_what_cannot_be_played_is_refused(suite, call, said):
    """With the right form."""
    result = machine(suite, call)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([said])


def test_a_finding_is_shown_once(suite):
    """With what Hypothesis says of it, and not again as what the test ended with."""
    result = machine(suite, "isolation.state_machine(Shop, [draft, publish], steps=4, seconds=2, examples=20)")
    result.stdout.fnmatch_lines(["LEAK *", "*state.draft()"])
    result.stdout.no_fnmatch_line("The test itself ended with *")
