"""Every planted fault is caught with the text that a reader needs, and its correct twin stays silent."""

import textwrap

HEAD = """
    import asyncio, contextvars, pytest
    pytestmark = pytest.mark.asyncio
"""
TEST = """
    @pytest.mark.isolation(users=10)
    async def test_inbox(user):
        user.observe(await handle(user.id, user.secret("note")))
"""
# Each: the faulty backend, its correct twin, and the first line of the report.
FAULTS = {
    "a module-level current_user": (
        """
        current_user = None
        notes = {}
        async def handle(user_id, note):
            global current_user
            current_user = user_id
            await asyncio.sleep(0)
            notes[user_id] = note
            await asyncio.sleep(0)
            return {"messages": [{"text": "hello"}, {"text": notes[current_user]}]}
        """,
        """
        current_user = contextvars.ContextVar("current_user")
        notes = {}
        async def handle(user_id, note):
            current_user.set(user_id)
            await asyncio.sleep(0)
            notes[user_id] = note
            await asyncio.sleep(0)
            return {"messages": [{"text": "hello"}, {"text": notes[current_user.get()]}]}
        """,
        ["LEAK  user-00 received the secret 'note' of user-09", "  channel   response, at $.messages[[]1].text"],
    ),
    "a class-level buffer": (
        """
        class Collector:
            lines = []
            def add(self, line): self.lines.append(line)
        async def handle(user_id, note):
            collector = Collector()
            collector.add(note)
            await asyncio.sleep(0)
            answer = list(collector.lines)
            if len(collector.lines) > 20: collector.lines.clear()
            return answer
        """,
        """
        class Collector:
            def __init__(self): self.lines = []
            def add(self, line): self.lines.append(line)
        async def handle(user_id, note):
            collector = Collector()
            collector.add(note)
            await asyncio.sleep(0)
            return list(collector.lines)
        """,
        ["LEAK  solo-01 received the secret 'note' of solo-00", "  channel   response, at $[[]0]"],
    ),
    "a class-level buffer that is emptied after every request": (
        """
        class Collector:
            lines = []
            def add(self, line): self.lines.append(line)
        async def handle(user_id, note):
            collector = Collector()
            collector.add(note)
            await asyncio.sleep(0)
            answer = {"lines": " ".join(collector.lines)}
            collector.lines.clear()
            return answer
        """,
        """
        class Collector:
            def __init__(self): self.lines = []
            def add(self, line): self.lines.append(line)
        async def handle(user_id, note):
            collector = Collector()
            collector.add(note)
            await asyncio.sleep(0)
            answer = {"lines": " ".join(collector.lines)}
            collector.lines.clear()
            return answer
        """,
        ["LEAK  user-00 received the secret 'note' of user-0*", "  channel   response, at $.lines"],
    ),
    "an emitter that is returned too early": (
        """
        class Emitter: pending = ()
        pool = [Emitter() for _ in range(3)]
        async def handle(user_id, note):
            while not pool: await asyncio.sleep(0)
            emitter = pool.pop()
            emitter.pending = [{"to": user_id, "text": note}]
            pool.append(emitter)
            await asyncio.sleep(0)
            return [event["text"] for event in emitter.pending]
        """,
        """
        class Emitter: pending = ()
        pool = [Emitter() for _ in range(3)]
        async def handle(user_id, note):
            while not pool: await asyncio.sleep(0)
            emitter = pool.pop()
            try:
                emitter.pending = [{"to": user_id, "text": note}]
                await asyncio.sleep(0)
                return [event["text"] for event in emitter.pending]
            finally:
                pool.append(emitter)
        """,
        ["LEAK  user-00 received the secret 'note' of user-09", "  channel   response, at $[[]0]"],
    ),
    "a cache keyed without the user": (
        """
        cache = {}
        async def handle(user_id, note):
            if "inbox" not in cache:
                await asyncio.sleep(0)
                cache["inbox"] = {"notes": [note]}
                asyncio.get_running_loop().call_later(0.05, cache.clear)
            return cache["inbox"]
        """,
        """
        cache = {}
        async def handle(user_id, note):
            if (user_id, "inbox") not in cache:
                await asyncio.sleep(0)
                cache[user_id, "inbox"] = {"notes": [note]}
            return cache[user_id, "inbox"]
        """,
        ["LEAK  * received the secret 'note' of *", "  channel   response, at $.notes[[]0]"],
    ),
    "an emitter that is not reset": (
        """
        class Emitter:
            def __init__(self): self.pending = []
        pool = [Emitter() for _ in range(3)]
        async def handle(user_id, note):
            while not pool: await asyncio.sleep(0)
            emitter = pool.pop()
            emitter.pending.append({"to": user_id, "text": note})
            await asyncio.sleep(0)
            sent = [event["text"] for event in emitter.pending]
            pool.append(emitter)
            return sent
        """,
        """
        class Emitter:
            def __init__(self): self.pending = []
        pool = [Emitter() for _ in range(3)]
        async def handle(user_id, note):
            while not pool: await asyncio.sleep(0)
            emitter = pool.pop()
            try:
                emitter.pending = [{"to": user_id, "text": note}]
                await asyncio.sleep(0)
                return [event["text"] for event in emitter.pending]
            finally:
                emitter.pending = []
                pool.append(emitter)
        """,
        ["LEAK  solo-01 received the secret 'note' of solo-00", "  channel   response, at $[[]0]"],
    ),
}


def source(backend):
    parts = (HEAD, backend, TEST)
    return "\n".join(textwrap.dedent(part) for part in parts)


def test_a_planted_leak_fails_the_test_with_the_whole_story(several):
    """Who, whose, what; where; in which phase; what it should have been; how to see it again."""
    result = several([source(faulty) for faulty, _, _ in FAULTS.values()], "--isolation-seed=1")
    result.assert_outcomes(failed=len(FAULTS))
    result.stdout.fnmatch_lines(
        [
            line
            for _, _, lines in FAULTS.values()
            for line in (
                *lines,
                "  phase     *, seed 1",
                '  expected  what * sees alone: "*"',
                '  seen      "*"',
                "  replay    pytest test_??.py::test_inbox --isolation-replay=crowd:10:1",
            )
        ]
    )


def test_their_correct_twins_pass_every_time(several, twin):
    """An oracle that cries wolf is switched off."""
    twin.is_silent(several([source(correct) for _, correct, _ in FAULTS.values()]), len(FAULTS))
