"""A request context does not change, and is itself only."""

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference_impl.context import RequestContext

ids = st.text(min_size=1).filter(str.strip)


def test_every_request_has_an_id_of_its_own():
    """Two requests of one user are two."""
    first, second = RequestContext("alice"), RequestContext("alice")
    assert first.request_id != second.request_id
    assert first != second


@given(ids, ids, ids)
def test_identity_is_all_ids_and_never_a_part_of_one(user, thread, run):
    """A key made of eight characters of an id lets two requests collide."""
    one = RequestContext(user, thread_id=thread, run_id=run)
    assert one == one
    assert one.key == (user, thread, run, one.request_id)
    assert one != RequestContext(user, thread_id=thread, run_id=run)
    assert hash(one) == hash(one.key)
    assert one != one.key


@pytest.mark.parametrize("user", ["", "  ", None, 3])
def test_a_request_has_a_user(user):
    """Nobody is not a user."""
    with pytest.raises(ValueError, match=r"user_id=.* is none"):
        RequestContext(user)


@pytest.mark.parametrize("name", ["user_id", "request_id", "metadata", "anything"])
def test_nothing_can_be_set_or_deleted(name):
    """It is handed to everybody who works on the request."""
    context = RequestContext("alice")
    with pytest.raises(AttributeError, match="does not change"):
        setattr(context, name, "bob")
    with pytest.raises(AttributeError, match="does not change"):
        delattr(context, name)


def test_metadata_is_a_copy_that_nobody_can_write_to():
    """Neither through the mapping that was given nor through the one that is kept."""
    given = {"a": 1}
    context = RequestContext("alice", metadata=given)
    given["a"] = 2
    assert context.metadata == {"a": 1}
    with pytest.raises(TypeError):
        context.metadata["a"] = 3


def test_nothing_keeps_a_context_alive():
    """No cycle, no registry: it dies with its last reference."""
    gc.disable()
    try:
        context = RequestContext("alice")
        dead = weakref.ref(context)
        del context
        assert dead() is None
    finally:
        gc.enable()


def test_a_context_names_its_user_in_errors():
    """For whoever reads a traceback."""
    context = RequestContext("alice")
    assert repr(context) == f"<RequestContext {context.request_id} of alice>"


@pytest.mark.parametrize("ids", [{"thread_id": ""}, {"run_id": 3}, {"thread_id": " "}])
def test_the_other_ids_are_texts_if_they_are_given(ids):
    """An empty thread would be everybody's."""
    with pytest.raises(ValueError, match="ids of a request are texts"):
        RequestContext("alice", **ids)


def test_metadata_cannot_be_changed_at_any_depth():
    """A list that two requests share is a way from one user to another."""
    given = {"tags": ["a"], "nested": {"deep": [1, {"x": {2}}]}, "raw": bytearray(b"r")}
    metadata = RequestContext("alice", metadata=given).metadata
    given["tags"].append("b")
    given["nested"]["deep"].append(2)
    given["raw"].append(0)
    assert metadata["tags"] == ("a",)
    assert metadata["nested"]["deep"] == (1, {"x": {2}})
    assert metadata["raw"] == b"r"
    with pytest.raises(TypeError):
        metadata["nested"]["new"] = 1
    with pytest.raises(AttributeError):
        metadata["nested"]["deep"][1]["x"].add(3)
