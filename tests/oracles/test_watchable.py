"""What is said wrong of a pool is refused at the call, with the right form."""

import threading

import pytest

from pytest_isolation.errors import MisuseError
from pytest_isolation.targets.pools import Watch
from pytest_isolation.users.lendings import Lendings


class Buffer:
    text = ""

    def write(self, text):
        self.text = text


class Pool:
    def acquire(self):
        return Buffer()

    def release(self, buffer):
        pass

    def take(self):
        return Buffer()


LIMIT = "it takes how many objects may be lent at once, a whole number ≥ 1, as in limit=20"
NAME = "a pool is named by a text, as in name='buffers'"
PAIR = "as in lend='take', back='put'"
WRONG = {
    "limit='3'": ({"limit": "3"}, f"isolation_watch(pool, …) with limit='3': {LIMIT}"),
    "limit=0": ({"limit": 0}, f"with limit=0: {LIMIT}"),
    "limit=True": ({"limit": True}, f"with limit=True: {LIMIT}"),
    "limit=2.0": ({"limit": 2.0}, f"with limit=2.0: {LIMIT}"),
    "name=3": ({"name": 3}, f"with name=3: {NAME}"),
    "name=''": ({"name": ""}, f"with name='': {NAME}"),
    "dirt=3": ({"dirt": 3}, "isolation_watch(pool, dirt=3): it takes a function that says what an object still holds"),
    "of=3": ({"of": 3}, "isolation_watch(pool, of=3): it takes a function that finds the object in a lease"),
    "uses='write'": (
        {"uses": "write"},
        """isolation_watch(pool, uses='write'): it takes a list of names of methods, """,
    ),
    "uses=[3]": ({"uses": [3]}, """(pool, uses=[3]): it takes a list of names of methods, as in uses=["write"]"""),
    "uses=3": ({"uses": 3}, "isolation_watch(pool, uses=3): it takes a list"),
    "uses=None": ({"uses": None}, "isolation_watch(pool, uses=None): it takes a list"),
    "settings='x'": (
        {"settings": "x"},
        """settings='x'): it takes a list of names of settings, as in settings=["app.""",
    ),
    "settings=[3]": ({"settings": [3]}, "isolation_watch(pool, settings=[3]): it takes a list of names of settings"),
    "lend='nope'": (
        {"lend": "nope"},
        f"a Pool has no method 'nope'; it takes the methods of the pool that lend and take back, {PAIR}",
    ),
    "back='nope'": (
        {"lend": "take", "back": "nope"},
        "isolation_watch(pool, back='nope'): a Pool has no method 'nope'",
    ),
    "back=3": ({"back": 3}, f"isolation_watch(pool, back=3): it takes the name of a method, {PAIR}"),
    "lend='take'": ({"lend": "take"}, f"isolation_watch(pool, lend=…) says half of it: it takes both, {PAIR}"),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_said_wrong_is_refused_at_the_call(said):
    """And the pool is as it was."""
    options, message = WRONG[said]
    pool = Pool()
    with Watch(Lendings()) as watch, pytest.raises(MisuseError) as refused:
        watch(pool, **options)
    assert message in str(refused.value)
    assert vars(pool) == {}


def test_a_pool_that_is_watched_already_is_no_excuse():
    """A scenario calls it once for each user."""
    pool = Pool()
    with Watch(Lendings()) as watch:
        assert watch(pool) is pool
        with pytest.raises(MisuseError, match="limit=0"):
            watch(pool, limit=0)


@pytest.mark.parametrize(
    "options",
    [
        {"limit": 1, "name": "buffers", "dirt": str, "of": id, "uses": ("write",), "settings": ["app.user"]},
        {"lend": "take", "back": "release", "limit": None, "uses": {"write"}},
    ],
    ids=["all", "other methods"],
)
def test_what_is_said_right_is_not_refused(options):
    """In every form that works."""
    with Watch(Lendings()) as watch:
        assert isinstance(watch(Pool(), **options).acquire(), Buffer)


def test_a_class_is_no_pool():
    """Whoever forgot the parentheses is told."""
    with Watch(Lendings()) as watch, pytest.raises(MisuseError) as refused:
        watch(Pool)
    assert "isolation_watch(Pool) is given a class: it takes the pool itself, as in isolation_watch(Pool(…))" in str(
        refused.value
    )


def test_a_pool_whose_methods_cannot_be_replaced_is_told_to_speak_for_itself():
    """A lock of Python's is no pool, but lends by the same names."""
    with (
        Watch(Lendings()) as watch,
        pytest.raises(MisuseError, match=r"the methods of a lock cannot be heard .*recorder"),
    ):
        watch(threading.Lock())


@pytest.mark.parametrize(
    ("name", "limit", "said"), [(3, None, NAME), ("", None, NAME), ("a", 0, LIMIT), ("a", "3", LIMIT)]
)
def test_a_recorder_of_nothing_is_refused(name, limit, said):
    """As a pool is."""
    with Watch(Lendings()) as watch, pytest.raises(MisuseError) as refused:
        watch.recorder(name, limit)
    assert str(refused.value).startswith("isolation_watch.recorder(…) with ")
    assert said in str(refused.value)


def test_a_method_that_is_not_there_is_named_when_the_first_object_is_lent():
    """What a pool lends is not known before."""
    with Watch(Lendings()) as watch:
        pool = watch(Pool(), uses=["nope"])
        with pytest.raises(
            MisuseError, match=r"uses=\['nope'\]\): what the pool lends is a Buffer, which has no method"
        ):
            pool.acquire()


def test_in_a_scenario_it_is_said_without_a_traceback(suite):
    """Nothing in this plugin explains it."""
    source = """
    import pytest
    class Pool:
        def acquire(self): return []
        def release(self, thing): pass
    @pytest.mark.isolation(users=2)
    def test_it(user, isolation_watch):
        isolation_watch(Pool(), limit="3")
        user.observe(user.id)
    """
    result = suite(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["pytest-isolation: isolation_watch(pool, …) with limit='3': it takes how many*"])
    result.stdout.no_fnmatch_line("*TypeError*")
