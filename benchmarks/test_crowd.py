"""What it costs to look at what a crowd saw, and to cut users at every await."""

import asyncio
import random
import statistics
import string
import time

import httpx
import pytest
from side_by_side import interleaved, timed
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from pytest_isolation.judge import Extensions, Judge
from pytest_isolation.phases.driver import Driver
from pytest_isolation.targets.asgi import AsgiServer
from pytest_isolation.users.cast import Cast, run_of

USERS = 100
WORDS = ["".join(random.Random(1).choices(string.ascii_lowercase, k=7)) for _ in range(1000)]
# What is in each row of the answer: the same for all, the user's own secret, or something else each time.
ROWS = {
    "all alike": lambda name, _: f"row of the list that everybody sees, {len(name)}",
    "a secret in each row": lambda name, _: f"row of the list of {name}",
    "another text in each row": lambda _, chance: " ".join(chance.choices(WORDS, k=6)),
}


async def rows(request):
    """Some ten kilobytes."""
    name, kind, chance = request.query_params["name"], request.query_params["kind"], random.Random()
    some = [{"id": n, "text": ROWS[kind](name, chance), "price": n * 1.5} for n in range(130)]
    return JSONResponse({"user": name, "rows": some})


async def ask(url, users, kind, taken):
    async def one(user):
        async with httpx.AsyncClient(base_url=url, trust_env=False, verify=False) as client:
            return taken(await client.get("/rows", params={"name": user.id, "kind": kind}))

    return await asyncio.gather(*map(one, users))


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(
    "taken", [httpx.Response.json, lambda response: response.content], ids=["as objects", "as they come"]
)
def test_a_crowd_is_judged_in_a_tenth_of_the_time_it_plays(benchmark, figure, kind, taken, request):
    """A hundred users with ten kilobytes each, over sockets; observed, searched, compared with the story."""
    server = AsgiServer(Starlette(routes=[Route("/rows", rows)]))
    cast, judge = Cast(1, "benchmark", 0), Judge(Extensions())
    solos = []
    for user in cast.users(5, "solo"):
        user.observe(*asyncio.run(ask(server.url, [user], kind, taken)))
        solos.append(cast.evidence("solo", [run_of(user)], ""))
    story = judge.learn(solos)
    seen = {}

    def play():
        users = cast.users(USERS)
        start = time.perf_counter()
        answers = asyncio.run(ask(server.url, users, kind, taken))
        seconds = time.perf_counter() - start
        seen[0] = users, answers
        return seconds

    def look():
        users, answers = seen[0]
        start = time.perf_counter()
        for user, answer in zip(users, answers, strict=True):
            user.observe(answer)
        found = judge.look(cast.evidence("crowd", [run_of(user) for user in users], ""), story)
        assert found == []
        return time.perf_counter() - start

    play()
    mine, theirs, ratio = interleaved(look, play, 9)
    server.close()
    figure(
        f"100 users, 10 KB each, {kind}: looking at it / the crowd itself",
        ratio,
        "×",
        most=0.1,
        details=f"{mine * 1e3:.0f} / {theirs * 1e3:.0f} ms, {request.node.callspec.id.rpartition('-')[0] or ''}",
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_a_sweep_costs_two_runs_a_point(isolation, benchmark, figure):
    """And two more to know the points: no more runs, and no more time than so many whole ones take."""
    whole_s = []

    async def scenario(user):
        begun = time.perf_counter()
        for _ in range(6):
            await asyncio.sleep(0.001)
        user.observe(user.id)
        whole_s.append(time.perf_counter() - begun)

    report = asyncio.run(isolation.check(scenario, users=2))
    [sweep] = [phase for phase in report.phases if phase.phase == "cancel sweep"]
    points = (sweep.runs - 1) // 2
    assert points >= 6
    most = (points + 1) * 2
    figure("cancel sweep: its runs / two for each point and two more", sweep.runs / most, "×", most=1)
    usual_s = statistics.median(whole_s)
    figure(
        "cancel sweep: its time / that of so many whole runs",
        sweep.seconds / (most * usual_s),
        "×",
        most=1,
        details=f"{sweep.seconds * 1e3:.0f} ms for {points} points, a run takes {usual_s * 1e3:.1f} ms",
    )
    benchmark.pedantic(lambda: None, rounds=1)


def test_a_thousand_users_at_once(isolation, benchmark, figure):
    """Each with a client of its own, on one machine."""
    server = AsgiServer(Starlette(routes=[Route("/rows", rows)]))

    async def scenario(user):
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, verify=False) as client:
            answer = await client.get("/rows", params={"name": user.id, "kind": "all alike"}, timeout=60)
            user.observe(answer.json())

    begun = time.perf_counter()
    report = asyncio.run(isolation.check(scenario, users=1000, fail=False))
    seconds = time.perf_counter() - begun
    server.close()
    figure("1,000 users in a crowd: findings", len(report.findings), "", most=0, details=f"{seconds:.1f} s in all")
    assert report.phases[1].runs == 1000
    benchmark.pedantic(lambda: None, rounds=1)


def test_a_suspension_point_of_a_driven_run(benchmark, figure):
    """What the driver adds to each, to know where it is and to be able to cut there."""
    points = 2000

    async def scenario(user):
        for _ in range(points):
            await asyncio.sleep(0)

    async def bare():
        await scenario(None)

    async def driven(at):
        user = object()
        await Driver(at).play(scenario, user)

    async def last():
        user = object()
        listing = Driver()
        await listing.play(scenario, user)
        return listing.points[-1]

    far = asyncio.run(last())
    object.__setattr__(far, "number", points + 1)  # it is never come to
    mine, theirs, _ = interleaved(
        lambda: timed(lambda: asyncio.run(driven(far))), lambda: timed(lambda: asyncio.run(bare())), 21
    )
    figure("driver: added to a suspension point", (mine - theirs) / points * 1e6, "µs", most=3)
    benchmark.pedantic(lambda: asyncio.run(driven(far)), rounds=3)
