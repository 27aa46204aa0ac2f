"""What was seen is copied at once, as plain values."""

import collections
import dataclasses
import datetime
import decimal
import enum
import io
import pathlib
import uuid
from array import array
from unittest.mock import MagicMock, Mock

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import column, create_engine, select, text, values
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pytest_isolation.errors import MisuseError
from pytest_isolation.users.snapshot import Bag, snapshot

Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind on purpose


class Colour(enum.Enum):
    RED = "red"


class Loud(str):
    __slots__ = ()

    def __str__(self):
        return "something else"


@dataclasses.dataclass
class Message:
    text: str
    read: bool = False


class Slotted:
    __slots__ = ("_hidden", "shown")

    def __init__(self):
        self.shown, self._hidden = "yes", "no"


class Behind:
    def __init__(self):
        self.text = "behind"

    def __repr__(self):
        return "<Behind>"


class Agent(Behind):
    def __init__(self):
        super().__init__()
        self.backend, self.parts, self._private = Behind(), [Behind()], "private"


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Response:
    status_code = 200
    headers = {"a": "b"}  # noqa: RUF012
    content = b"body"


class Streaming:
    status = 200
    headers = {}  # noqa: RUF012


class Headers(list):
    items = list.__iter__


class Empty(Response):
    content = None


class Unread(Response):
    text = "from text"

    @property
    def content(self):
        raise RuntimeError("not read yet")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(plain)
def test_plain_values_stay_what_they_are(value):
    """JSON and bytes come out equal, and as another object where they could change."""
    copy = snapshot(value)
    assert copy == value
    if isinstance(value, list | dict):
        assert copy is not value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (collections.deque([1]), [1]),
        ({1}, [1]),
        (Colour.RED, "red"),
        (Loud("text"), "text"),
        (True, True),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2026, 11, 23), "2026-11-23"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pathlib.PurePosixPath("/a"), "/a"),
        (Message("hi"), {"text": "hi", "read": False}),
        (Point(1, 2), {"x": 1, "y": 2}),
        ({b"k": 1, 2: 3}, {"k": 1, "2": 3}),
        ({1: "a", "1": "b"}, {"1": "a", "1'": "b"}),
        (Behind, repr(Behind)),
        (Response(), {"status": 200, "headers": {"a": "b"}, "body": b"body"}),
        (Unread(), {"status": 200, "headers": {"a": "b"}, "body": "from text"}),
        (Empty(), {"status": 200, "headers": {"a": "b"}, "body": None}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_kind_of_value_is_taken_apart(value, expected):
    """Containers, records, responses; a subclass of str by its value, not by its __str__."""
    assert snapshot(value) == expected


class Note(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    text: str

    @pydantic.computed_field
    @property
    def length(self) -> int:
        return len(self.text)

    @pydantic.computed_field
    @property
    def broken(self) -> int:
        raise ValueError("not yet")


class Notes(pydantic.RootModel[list[Note]]):
    pass


def test_of_a_model_all_is_taken_that_is_sent():
    """Its fields, what else it was given, and what it computes; in others as well."""
    note = {"text": "hi", "colour": "red", "length": 2, "broken": "<ValueError while it was computed>"}
    assert snapshot(Note(text="hi", colour="red")) == note
    assert snapshot(Notes([Note(text="hi", colour="red")])) == {"root": [note]}


def test_what_has_no_order_is_a_bag():
    """Sets compare without order."""
    assert isinstance(snapshot({1, 2}), Bag)


def test_headers_are_named_without_case_and_may_be_repeated():
    """A header that varies hides no other one."""
    response = Response()
    response.headers = Headers([("Set-Cookie", "a=1"), ("ETag", "x"), ("set-cookie", "b=2"), ("Set-cookie", "c=3")])
    assert snapshot(response)["headers"] == {"set-cookie": ["a=1", "b=2", "c=3"], "etag": "x"}


@pytest.mark.parametrize("name", ["content", "text"])
def test_a_response_whose_body_cannot_be_seen_is_refused(name):
    """Nothing in it would have been seen: a stream, or a method that has to be awaited."""
    response = Streaming()
    setattr(response, name, lambda: "later")
    with pytest.raises(MisuseError, match="a Streaming whose body has not been read"):
        snapshot(response)


def test_what_ended_a_run_can_always_be_copied():
    """An error with an iterator, an unread response or a broken text in it is not the test's misuse."""

    class Broken(Exception):
        def __str__(self):
            raise KeyError("no text")

    seen = snapshot(Broken(iter([1]), Streaming()))
    assert seen["text"] == "<KeyError while it was printed>"
    assert seen["args"] == ["an iterator (list_iterator)", "a Streaming"]


def test_of_a_stranger_its_own_data_is_taken_and_what_hangs_behind_is_not():
    """What an object refers to did not arrive with it."""
    seen = snapshot(Agent())
    assert seen == {"": "<Behind>", "text": "behind", "parts": ["<Behind>"]}
    assert snapshot(Slotted())["shown"] == "yes"
    assert "_hidden" not in snapshot(Slotted())


def test_rows_and_objects_of_an_orm_are_taken_apart():
    """What is loaded, without asking the database for more."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        row = connection.execute(text("select 1 as id, 'a' as name")).one()
    engine.dispose()
    assert snapshot(row) == {"id": 1, "name": "a"}
    assert snapshot([Row(id=1, text="a")]) == [{"id": 1, "text": "a"}]
    assert isinstance(snapshot(select(values(column("x"), name="v").data([(1,)]))), str | dict)


def test_an_exception_brings_its_arguments_notes_and_causes():
    """A secret may hide in any of them."""
    error = ExceptionGroup("group", [ValueError("inner")])
    error.add_note("a note")
    error.__cause__ = KeyError("cause")
    seen = snapshot(error)
    assert seen["__notes__"] == ["a note"]
    assert seen["cause"]["args"] == ["cause"]
    assert seen["exceptions"][0]["text"] == "inner"


def test_the_context_of_an_exception_is_taken_when_it_has_no_cause():
    """`raise B` inside `except A` carries A along."""
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904
    except ValueError as error:
        seen = snapshot(error)
    assert seen["context"]["args"] == ["first"]


def test_a_ring_ends():
    """A list that contains itself is no endless story."""
    ring = [1]
    ring.append(ring)
    assert snapshot(ring) == [1, "<seen above>"]


def test_depth_ends_in_text_that_can_still_be_searched():
    """Nothing is dropped silently."""
    deep = "secret"
    for _ in range(100):
        deep = [deep]
    assert "secret" in repr(snapshot(deep))


@pytest.mark.parametrize("make", [lambda: iter([1]), lambda: (x for x in [1])])
def test_what_would_be_used_up_is_refused(make):
    """Looking at an iterator empties it."""
    with pytest.raises(MisuseError, match=r"it has not run.*user\.observe\(list"):
        snapshot(make())


def test_a_coroutine_is_refused_by_name():
    """Somebody forgot to await it."""

    async def fetch(): ...

    coroutine = fetch()
    with pytest.raises(MisuseError, match=r"coroutine .*fetch\(\).*Await it"):
        snapshot(coroutine)
    coroutine.close()


def test_a_later_change_is_not_seen():
    """It is judged after the fact, but as it was."""
    value = {"a": [1]}
    seen = snapshot(value)
    value["a"].append(2)
    assert seen == {"a": [1]}


class Page:
    """A page of results, as libraries make it."""

    def __init__(self, items):
        self._items = items

    def __iter__(self):
        return iter(self._items)

    def __len__(self):
        return len(self._items)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Page(["a", "b"]), ["a", "b"]),
        ({"x": "a"}.values(), ["a"]),
        (array("i", [1, 2]), [1, 2]),
        (memoryview(b"ab"), b"ab"),
        (io.BytesIO(b"ab"), b"ab"),
        (io.StringIO("ab"), "ab"),
    ],
)
def test_what_can_be_gone_through_again_is_gone_through(value, plain):
    """Its parts are what was seen."""
    assert snapshot(value) == plain


def test_what_may_be_used_up_by_looking_is_refused():
    """A cursor, for example."""

    class Cursor:
        def __iter__(self):
            return iter(["a"])

    with pytest.raises(MisuseError, match=r"observe\(\) got a Cursor, which does not say how long it is.*list\(…\)"):
        snapshot(Cursor())


def test_a_mock_is_not_what_it_claims_to_be():
    """It has headers, a status and a mapping, if it is asked."""
    assert snapshot(Mock(text="hello"))["text"] == "hello"
    assert "Mock" in str(snapshot(MagicMock()))


@pytest.mark.parametrize(
    ("rows", "copy"),
    [
        ([], []),
        ([{}], [{}]),
        ([{"a": 1, "b": None}, {"a": "x"}], [{"a": 1, "b": None}, {"a": "x"}]),
        ([{"a": 1}, {2: "x"}], [{"a": 1}, {"2": "x"}]),
        ([{"a": 1}, {"b": (1, 2)}], [{"a": 1}, {"b": [1, 2]}]),
        ([{"a": Loud("x")}], [{"a": "x"}]),
        ([{"a": 1}, [2]], [{"a": 1}, [2]]),
    ],
)
def test_a_table_is_a_copy_of_its_own(rows, copy):
    """Of plain values, however its rows are made; what is changed later was not seen."""
    taken = snapshot(rows)
    for row in rows:
        row.clear()
    assert taken == copy
    assert all(type(value) is not Loud for row in taken for value in row)


class Unprintable:
    """Like an ORM object of a session that is closed."""

    def __init__(self):
        self.note = "hello"

    def __repr__(self):
        raise RuntimeError("no session")

    __str__ = __repr__


class Unbound:
    """Like a proxy of a request where there is none."""

    def __init__(self):
        self.note = "hello"

    def __getattr__(self, name):
        raise RuntimeError("outside of a request")

    def __repr__(self):
        return "<Unbound>"


class Untouchable:
    """Whatever is asked of it."""

    def __getattribute__(self, name):
        raise RuntimeError("outside of a request")

    def __repr__(self):
        raise RuntimeError("outside of a request")


def nested(inner, levels):
    for _ in range(levels):
        inner = [inner]
    return inner


def innermost(value):
    while isinstance(value, list):
        [value] = value
    return value


UNPRINTED = "<Unprintable: RuntimeError while it was printed>"


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Unprintable(), {"": UNPRINTED, "note": "hello"}),
        ([Unprintable(), 1], [{"": UNPRINTED, "note": "hello"}, 1]),
        ({Unprintable(): 1, "a": 2}, {UNPRINTED: 1, "a": 2}),
        (Unbound(), {"": "<Unbound>", "note": "hello"}),
        (Untouchable(), "<Untouchable: RuntimeError while it was looked at>"),
        ({"a": Untouchable(), "b": (1,)}, {"a": "<Untouchable: RuntimeError while it was looked at>", "b": [1]}),
        (ValueError(Untouchable()), None),
    ],
    ids=["repr", "in a list", "key", "getattr", "getattribute", "in a dict", "in an error"],
)
def test_an_object_that_raises_when_it_is_looked_at_fails_nobody(value, plain):
    """The rest of it, and of what is around it, is seen; of itself it is said what it is."""
    seen = snapshot(value)
    assert seen == plain or plain is None
    assert "RuntimeError while" in str(seen) or "<Unbound>" in str(seen)


@pytest.mark.parametrize("inner", [(1, 2), "x"], ids=["taken apart", "plain"])
def test_what_is_too_deep_even_to_be_printed_is_cut_and_says_so(inner):
    """Where a text can still be had, it is whole."""
    assert "x" in str(innermost(snapshot(nested("x", 200))))
    assert innermost(snapshot(nested(inner, 100_000))) == "<list: cut, 64 levels down>"


def local_proxy():
    """Like werkzeug's: its class has every special method there is, and asks whatever stands behind it."""
    nothing = object()

    class LocalProxy:
        __module__ = "werkzeug.local"
        __slots__ = ("_get_current_object",)

        def __init__(self, behind=nothing):
            def get():
                if behind is nothing:
                    raise RuntimeError("Working outside of request context.")
                return behind

            object.__setattr__(self, "_get_current_object", get)

        @property
        def __class__(self):
            try:
                return type(self._get_current_object())
            except RuntimeError:
                return type(self)

        def __getattr__(self, name):
            return getattr(object.__getattribute__(self, "_get_current_object")(), name)

        def __repr__(self):
            return "<LocalProxy unbound>"

        def ask(self, *_):
            raise RuntimeError("Working outside of request context.")

        __iter__ = __next__ = __len__ = __await__ = __getitem__ = __contains__ = ask

    return LocalProxy


@pytest.mark.parametrize("behind", ["x", {"a": ["x"]}, ("x", 1)], ids=str)
def test_a_proxy_of_werkzeug_is_what_stands_behind_it(behind):
    """As of Flask's `g`, or the current user."""
    assert snapshot([local_proxy()(behind)]) == [snapshot(behind)]


def test_a_proxy_of_nothing_fails_nobody():
    """It was observed where there is no request."""
    assert snapshot({"user": local_proxy()()}) == {"user": "<LocalProxy unbound>"}


def test_a_misuse_says_nothing_of_how_values_are_copied():
    """That there were plain ones first is of no use to anybody."""
    with pytest.raises(MisuseError, match=r"observe\(\) got an iterator") as refused:
        snapshot(iter([1]))
    assert refused.value.__context__ is None
