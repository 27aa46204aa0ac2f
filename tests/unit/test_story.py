"""After names are changed, all users tell the same story; what differs is interference."""

import pytest

from pytest_isolation.users.cast import Cast, run_of
from pytest_isolation.users.story import Story


class Theatre:
    """A cast whose users see what the test says, first alone, then one of them among others."""

    def __init__(self):
        self.cast = Cast(1, "test", 0)

    def evidence(self, *users):
        return self.cast.evidence("phase", [run_of(user, None, True, 0.1) for user in users])

    def alone(self, see, count=2):
        solos = []
        for user in self.cast.users(count, "solo"):
            see(user)
            solos.append(self.evidence(user))
        return Story(solos)

    def differences(self, story, see):
        [user] = self.cast.users(1)
        see(user)
        evidence = self.evidence(user)
        return list(story.differences(evidence, evidence.runs[0]))

    def compare(self, alone, later):
        return self.differences(self.alone(alone), later)


@pytest.fixture
def theatre():
    return Theatre()


def test_the_same_story_shows_no_difference(theatre):
    """The usual case."""

    def see(user):
        user.observe({"me": user.id, "notes": [user.secret("note")]})

    assert theatre.compare(see, see) == []


@pytest.mark.parametrize(
    ("later", "path", "expected", "seen"),
    [
        ({"a": 1, "b": "y"}, "$.b", "x", "y"),
        ({"a": 1}, "$.b", "x", None),
        ({"a": 1, "b": "x", "c": 2}, "$.c", None, "2"),
        ([], "$", None, "<empty list>"),
    ],
)
def test_any_other_difference_is_found_with_its_path(theatre, later, path, expected, seen):
    """Changed, missing, added, of another kind."""
    differences = theatre.compare(lambda u: u.observe({"a": 1, "b": "x"}), lambda u: u.observe(later))
    assert (path, expected, seen) in [(d.path, d.expected, d.seen) for d in differences]


def test_missing_and_extra_observations_are_differences(theatre):
    """A lost answer and a doubled one."""
    [lost] = theatre.compare(lambda u: (u.observe("a"), u.observe("b")), lambda u: u.observe("a"))
    assert (lost.position, lost.expected, lost.seen) == (1, "b", None)
    [extra] = Theatre().compare(lambda u: u.observe("a"), lambda u: (u.observe("a"), u.observe("b")))
    assert (extra.position, extra.expected, extra.seen) == (1, None, "b")


def test_a_run_that_failed_is_not_blamed_for_what_it_could_not_see(theatre):
    """What it did see still counts."""
    story = theatre.alone(lambda u: (u.observe("a"), u.observe("b")))
    [user] = theatre.cast.users(1)
    user.observe("a")
    run = run_of(user, ValueError(), True, 0.1)
    assert list(story.differences(theatre.cast.evidence("phase", [run]), run)) == []


def test_the_order_between_channels_means_nothing(theatre):
    """Events and responses race."""
    differences = theatre.compare(
        lambda u: (u.observe("r"), u.observe("e", "event")), lambda u: (u.observe("e", "event"), u.observe("r"))
    )
    assert differences == []


def test_what_differs_between_solo_runs_is_unstable(theatre):
    """Ids, counters, anything that a lonely user sees change too; at every place of a list."""
    counter = iter(range(100))

    def see(user):
        user.observe({"items": [{"id": next(counter), "text": "a"}, {"id": next(counter), "text": "b"}]})

    story = theatre.alone(see)
    assert theatre.differences(story, see) == []

    def other(user):
        user.observe({"items": [{"id": 5, "text": "a"}, {"id": 6, "text": "WRONG"}]})

    [difference] = theatre.differences(story, other)
    assert difference.path == "$.items[1].text"


def test_in_a_text_only_the_words_that_vary_are_unstable(theatre):
    """The rest of the sentence is still compared."""
    counter = iter(range(100))

    def see(user):
        user.observe(f"request {next(counter)} took {next(counter)}.5 ms for {user.id}")

    story = theatre.alone(see)
    assert theatre.differences(story, see) == []
    [difference] = theatre.differences(story, lambda u: u.observe(f"request 7 took 1.25 ms for nobody {u.id}"))
    assert difference.expected == "request 0 took 1.5 ms for <user>"


def test_a_text_of_which_every_word_varies_is_unstable_as_a_whole(theatre):
    """A session cookie has nothing to hold on to."""
    counter = iter(range(100))
    see = lambda user: user.observe({"cookie": f"c{next(counter)}"})  # noqa: E731
    story = theatre.alone(see)
    assert theatre.differences(story, lambda u: u.observe({"cookie": "anything at all"})) == []


def test_a_channel_whose_length_varies_is_compared_as_far_as_it_is_common(theatre):
    """A heartbeat comes when it comes."""
    lengths = iter([2, 3])

    def see(user):
        for _ in range(next(lengths)):
            user.observe("beat", "event")

    story = theatre.alone(see)
    assert theatre.differences(story, lambda u: [u.observe("beat", "event") for _ in range(5)]) == []
    assert theatre.differences(story, lambda u: u.observe("WRONG", "event")) != []


def test_a_shared_feed_is_read_without_the_posts_of_others(theatre):
    """Sharing is declared; the rest of the feed is still compared."""
    feed = []

    def see(user):
        user.share("post")
        feed.append({"by": user.secret("post"), "likes": 0})
        user.observe({"posts": list(feed), "mine": user.secret("note")})

    story = theatre.alone(see)
    assert theatre.differences(story, see) == []

    def wrong(user):
        user.share("post")
        user.observe({"posts": [*feed, {"by": user.secret("post"), "likes": 7}], "mine": user.secret("note")})

    [difference] = theatre.differences(story, wrong)
    assert difference.path == "$.posts[0].likes"


def test_a_broadcast_is_no_extra_observation(theatre):
    """A frame that another user shares is not this user's story."""
    said = []

    def see(user):
        user.share("shout")
        said.append(user.secret("shout"))
        for shout in said:
            user.observe({"shout": shout}, "websocket")

    assert theatre.compare(see, see) == []


def test_keys_that_carry_a_secret_are_renamed_in_paths(theatre):
    """A mapping by user id tells the same story for all."""
    assert theatre.compare(lambda u: u.observe({u.id: 1}), lambda u: u.observe({u.id: 1})) == []


def test_the_story_is_told_with_the_name_of_the_user_in_reports(theatre):
    """expected: what user-07 sees alone."""
    story = theatre.alone(lambda u: u.observe({"text": u.secret("note")}))
    assert story.expected("user-07", "response", 0, "$.text") == "<note of user-07>"
    assert story.expected("user-07", "response", 5, "$.text") == ""
    assert story.expected("user-07", "elsewhere", 0, "$.text") == ""


@pytest.mark.parametrize("is_ordered", [True, False])
def test_the_order_of_a_list_means_nothing_where_the_scenario_says_so(theatre, is_ordered):
    """What is in it still does."""
    rows = [{"id": number} for number in range(3)]
    story = theatre.alone(lambda user: user.observe({"rows": rows}, ordered=is_ordered))
    assert bool(theatre.differences(story, lambda u: u.observe({"rows": rows[::-1]}, ordered=is_ordered))) is is_ordered
    assert theatre.differences(story, lambda u: u.observe({"rows": [*rows[:2], {"id": 7}]}, ordered=is_ordered))


@pytest.mark.parametrize(
    "now",
    [
        "12:34:56",
        "12:34:56.789",
        "2026/11/23 12:34:56",
        "2026-11-23T12:34:56+01:00",
        "20261123T123456Z",
        "Mon, 23 Nov 2026 12:34:56 +0100",
        "Mon, 23 Nov 2026 12:34:56 GMT",
        "a=b; expires=Mon, 23-Nov-2026 12:34:56 GMT; Path=/",
        "[23/Nov/2026:12:34:56 +0000] GET /",
        "Mon Nov 23 12:34:56 2026",
        "Mon Nov  2 12:34:56 2026",
    ],
)
def test_the_time_of_day_is_no_difference(theatre, now):
    """Whoever is alone sees it at another time than a crowd."""
    later = now.replace("12:34:56", "23:59:07").replace("123456", "235907")
    assert theatre.compare(lambda user: user.observe(now), lambda user: user.observe(later)) == []


@pytest.mark.parametrize("text", ["10:30", "1:2:3", "ratio 16:9", "port 8080", "user 23"])
def test_what_only_looks_like_a_time_is_compared(theatre, text):
    """An appointment is somebody's."""
    [difference] = theatre.compare(lambda user: user.observe(text), lambda user: user.observe(f"{text}1"))
    assert difference.expected == text


@pytest.mark.parametrize(
    "name",
    [
        "took",
        "took_ms",
        "elapsed",
        "duration_s",
        "latency_ms",
        "x-process-time",
        "process_time",
        "response-time",
        "uptime",
        "age",
    ],
)
def test_how_long_something_took_is_no_difference(theatre, name):
    """Alone it may be 0 every time."""
    assert theatre.compare(lambda user: user.observe({name: 0}), lambda user: user.observe({name: 3.5})) == []


def test_another_figure_is_a_difference(theatre):
    """Its name says nothing of time."""
    assert theatre.compare(lambda user: user.observe({"unread": 0}), lambda user: user.observe({"unread": 3}))


def numbered(form):
    """Sees something else every time: the form with a number in it."""
    numbers = iter(range(10**6))
    return lambda user: user.observe(form(next(numbers)))


@pytest.mark.parametrize(
    "form",
    [
        lambda n: {"orders": {f"order-{n}": {"state": "paid"}}},
        lambda n: {"orders": {n: {"state": "paid"}}},
        lambda n: {"orders": {f"a.b[{n}]": "paid"}},
        lambda n: {"items": list(range(n % 4))},
        lambda n: {"items": set(range(n % 4))},
        lambda n: {"items": [{"a": 1}] * (n % 4)},
        lambda n: {"hint": "try again"} if n % 3 else {},
        lambda n: [{f"k{(n + i) % 5}": i} for i in range(5)],
    ],
)
def test_keys_and_lengths_that_differ_when_alone_are_unstable(theatre, form):
    """No two orders have the same number."""
    see = numbered(form)
    story = theatre.alone(see, 5)
    assert [difference for _ in range(8) for difference in theatre.differences(story, see)] == []


def test_beside_a_key_that_differs_the_others_are_compared(theatre):
    """What is under it, and what stands beside it."""
    orders = iter(range(100))

    def see(user, state="paid", total=1):
        user.observe({"total": total, "orders": {f"order-{next(orders)}": "any"}, "state": state})

    story = theatre.alone(see, 5)
    assert theatre.differences(story, see) == []
    assert [d.path for d in theatre.differences(story, lambda user: see(user, "stolen"))] == ["$.state"]
    assert [d.path for d in theatre.differences(story, lambda user: see(user, total=2))] == ["$.total"]


@pytest.mark.parametrize("token", ["abcdefghijkl", "abc/efghi+kl", "/bcdefghijkl", "abcdefghij=="])
def test_a_random_token_may_hold_what_ends_a_word(theatre, token):
    """Base64 has a slash now and then."""
    tokens = iter(["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc", token])
    assert (
        theatre.compare(
            see := lambda user: user.observe(f"sid={next(tokens)}; Path=/"), lambda u: (next(tokens), see(u))
        )
        == []
    )


def test_a_number_of_thousands_of_digits_has_a_line_too(theatre):
    """Python prints it in no other way than in hex."""
    assert theatre.compare(lambda user: user.observe(10**5000), lambda user: user.observe(10**5000)) == []
