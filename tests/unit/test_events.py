"""Server-sent events, however their bytes are cut."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_isolation.targets.events import EventStream

STREAM = "\ufeffid: 1\nevent: told\ndata: für\ndata: alice\n\n: nobody hears this\ndata:{}\r\n\r\nevent: empty\n\nretry: 3\rdata\r\r"
EVENTS = [{"id": "1", "event": "told", "data": "für\nalice"}, {"data": "{}"}, {"data": ""}]


def read(*chunks):
    stream = EventStream()
    return [dict(event) for chunk in chunks for event in stream.feed(chunk)]


def test_events_have_data_and_what_else_is_said_of_them():
    """Comments, other fields and events without data are left out."""
    assert read(STREAM.encode(), b"\n") == EVENTS


@given(st.lists(st.integers(0, len(STREAM.encode()))))
def test_where_the_chunks_end_does_not_matter(cuts):
    """In the middle of a character, of a line's end, of an event."""
    raw, cuts = STREAM.encode() + b"\n", sorted(cuts)
    assert read(*(raw[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True))) == EVENTS


def test_an_event_is_there_as_soon_as_it_is_whole():
    """Its stream may go on for ever."""
    stream = EventStream()
    assert list(stream.feed(b"data: 1\n")) == []
    assert list(stream.feed(b"\n")) == [{"data": "1"}]
