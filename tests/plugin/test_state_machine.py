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
    result = machine(suite, "isolation.state_machine(Shop, {**CORRECT, draft: {}, publish: {}}, seconds=20)")
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
    call = "isolation.state_machine(Shop, [draft, publish], steps=4, seconds=20, examples=20)"
    first = machine(suite, call)
    option = next(line for line in first.outlines if line.startswith("  replay")).split("--")[1]
    again = machine(suite, call, f"--{option}")
    told = [[line for line in run.outlines if line.startswith(("LEAK", "  phase"))] for run in (first, again)]
    assert told[0] == told[1] != []


def test_what_is_kept_apart_passes(suite):
    """In all of them."""
    call = "isolation.state_machine(Shop, CORRECT, seconds=20, examples=5)"
    machine(suite, call).assert_outcomes(passed=1)


def test_without_failing_the_report_has_the_findings(suite):
    """For a test that expects them."""
    call = "report = isolation.state_machine(Shop, [draft, publish], steps=4, seconds=20, examples=20, fail=False)"
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
        ("isolation.state_machine(Shop, {read: {'x': 3}})", "*read: x is 3, and no strategy of Hypothesis*"),
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
    result = machine(suite, "isolation.state_machine(Shop, [draft, publish], steps=4, seconds=20, examples=20)")
    result.stdout.fnmatch_lines(["LEAK *", "*state.draft()"])
    result.stdout.no_fnmatch_line("The test itself ended with *")


NAMED = """
    import asyncio, functools, pytest
    class Shop:
        def __init__(self): self.last = None
    def make(kind, name):
        async def operation(user, shop):
            if kind == "correct":
                return user.secret()
            seen, shop.last = shop.last, user.secret()
            return seen or user.secret()
        operation.__name__ = name
        return operation
    async def either(user, shop, *, kind):
        return await make(kind, "")(user, shop)
"""


@pytest.mark.parametrize(
    ("operations", "name"),
    [
        ("[make('leaky', 'add'), make('correct', 'add')]", "add"),
        ("[make('correct', 'add'), make('leaky', 'add')]", "add"),
        ("[make('leaky', 'teardown')]", "teardown"),
        ("[make('leaky', 'check_invariants')]", "check_invariants"),
        ("[make('leaky', '__init__')]", "__init__"),
        ("[functools.partial(either, kind='leaky'), functools.partial(either, kind='correct')]", "either"),
    ],
)
def test_no_operation_is_lost_for_its_name(suite, operations, name):
    """Two may have one, and the machine itself has some; they are shown with their own."""
    source = NAMED + f"    def test_it(isolation): isolation.state_machine(Shop, {operations}, seconds=30, examples=5)"
    result = suite(source, "--isolation-seed=42")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LEAK *", f"state.{name}()"])


def test_a_sequence_of_one_operation_is_played(suite):
    """The choice of the users is none of the steps."""
    call = "isolation.state_machine(Shop, [make('leaky', 'add')], seconds=30, examples=2, steps=1)"
    suite(NAMED + f"    def test_it(isolation): {call}").assert_outcomes(failed=1)


@pytest.mark.parametrize("number", ["0", "-1", "True", "2.5"])
@pytest.mark.parametrize("name", ["steps", "examples"])
def test_what_would_play_nothing_is_refused(suite, name, number):
    """Before Hypothesis says so in its own words, or nobody does."""
    result = machine(suite, f"isolation.state_machine(Shop, [read], {name}={number})")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"pytest-isolation: {name}={number}: that is a whole number ≥ 1, as in {name}=*"])


def test_a_machine_that_played_nothing_is_no_pass(suite):
    """Whatever the reason."""
    source = """
    import hypothesis.stateful
    def test_it(isolation, monkeypatch):
        monkeypatch.setattr(hypothesis.stateful, "run_state_machine_as_test", lambda *_, **__: None)
        isolation.state_machine(Shop, [make('leaky', 'add')])
    """
    result = suite(NAMED + source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Hypothesis chose no sequence of operations, so nothing was played*"])


def test_a_token_of_an_exploration_is_not_for_a_machine_beside_it(suite):
    """The exploration plays its order again, with the same users, and nothing else is played."""
    more = """
    async def racy(user, shop):
        for _ in range(6 if user.index == 0 else 12):
            await asyncio.sleep(0)
        shop.last = user.secret()
        await asyncio.sleep(0)
        user.observe(shop.last)
    def test_it(isolation):
        isolation.state_machine(Shop, [make('correct', 'add')], seconds=0.5, examples=3)
        isolation.explore(Shop, racy, users=2, seconds=20)
    """
    found = suite(NAMED + more)
    found.assert_outcomes(failed=1)
    option = next(line for line in found.outlines if line.startswith("  replay")).split("--")[1]
    again = suite(NAMED + more, f"--{option}")
    again.assert_outcomes(failed=1)
    told = [[line for line in run.outlines if " ms  " in line or line.startswith("LEAK")] for run in (found, again)]
    assert told[0] == told[1] != []


def test_its_time_is_that_of_all_sequences(suite):
    """And what was left out is said."""
    result = suite(
        """
        import asyncio
        class Shop: pass
        async def look(user, shop):
            await asyncio.sleep(0)
            return user.secret()
        async def wait(user, shop):
            await asyncio.sleep(0)
        def test_it(isolation):
            isolation.state_machine(Shop, [look, wait], examples=10_000, seconds=0.5)
        """
    )
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*the time was over (0.5 s) after * of 10000 sequences of operations: give it more*"])
