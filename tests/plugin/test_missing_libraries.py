"""Libraries that no extra brings are asked for with the line that installs them."""


def test_a_state_machine_without_hypothesis_says_what_to_install(suite):
    """And is no bare ModuleNotFoundError."""
    source = """
    import sys
    class Shop: pass
    async def add(user, shop): user.observe(user.id)
    def test_it(isolation, monkeypatch):
        monkeypatch.setitem(sys.modules, "hypothesis", None)
        isolation.state_machine(Shop, [add])
    """
    result = suite(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["pytest-isolation: isolation.state_machine needs Hypothesis: pip install hypothesis"])
    result.stdout.no_fnmatch_line("*ModuleNotFoundError*")
