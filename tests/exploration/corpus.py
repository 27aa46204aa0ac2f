"""Small backends with one fault each that some order of steps, some timer or some cancellation shows; and correct ones.

A backend has ``async def handle(user)``, which answers with what the user sees. ``FAULTS`` and ``CONTROLS`` hold them
by name, each with how often a user asks.
"""

import asyncio
import contextvars
from dataclasses import dataclass

FAULTS, CONTROLS = {}, {}
CURRENT = contextvars.ContextVar("current")


@dataclass(frozen=True)
class Case:
    """One backend.

    Attributes:
        name: of the backend.
        open: makes a new one.
        requests: how often each user asks.
    """

    name: str
    open: type
    requests: int = 1

    async def scenario(self, backend, user):
        """What a user does."""
        for _ in range(self.requests):
            user.observe(await backend.handle(user))


def fault(requests=1):
    """A backend that must be found."""
    return lambda backend: FAULTS.setdefault(backend.__name__, Case(backend.__name__, backend, requests)).open


def control(requests=1):
    """A backend on which nothing may be found."""
    return lambda backend: CONTROLS.setdefault(backend.__name__, Case(backend.__name__, backend, requests)).open


async def io():
    """A round trip."""
    await asyncio.sleep(0.002)


class Connection:
    """To some server, which answers in the order of its requests."""

    def __init__(self):
        self.rows = []
        self.replies = asyncio.Queue()
        self.tasks = set()

    def ask(self, request, takes_s=0.002):
        """Send a request; the reply comes later, whoever waits for it."""

        async def serve():
            await asyncio.sleep(takes_s)
            self.replies.put_nowait(request)

        task = asyncio.ensure_future(serve())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class Pooled:
    """A backend with a pool of connections."""

    size = 1

    def __init__(self):
        self.pool = asyncio.Queue()
        for _ in range(self.size):
            self.pool.put_nowait(Connection())


# The twelve of the measured prototype


@fault()
class FreeSlotIsTakenLate:
    """The free slot is looked up before an await and taken after it."""

    def __init__(self):
        self.slots = {}

    async def handle(self, user):
        free = next(slot for slot in range(99) if slot not in self.slots)
        await io()
        self.slots[free] = user.secret()
        await io()
        answer = self.slots.get(free)
        await io()
        self.slots.pop(free, None)
        return answer


@fault()
class CurrentUserIsGlobal:
    """The user of the moment is kept for all."""

    current = None

    async def handle(self, user):
        self.current = user.secret()
        await io()
        return f"hello {self.current}"


@fault(requests=2)
class PoolIsNotResetOnCancel(Pooled):
    """Who is cancelled gives its connection back with its rows in it."""

    size = 2

    async def handle(self, user):
        connection = await self.pool.get()
        try:
            connection.rows.append(user.secret())
            await io()
            rows = list(connection.rows)
            connection.rows.clear()
            return rows
        finally:
            self.pool.put_nowait(connection)


@fault()
class FlightIsSharedByPath:
    """Those who ask at the same time share an answer, whoever they are."""

    def __init__(self):
        self.flights = {}

    async def handle(self, user):
        await io()
        if "/me" not in self.flights:

            async def fetch():
                await io()
                del self.flights["/me"]
                return user.secret()

            self.flights["/me"] = asyncio.ensure_future(fetch())
        return await asyncio.shield(self.flights["/me"])


@fault(requests=2)
class ReplyIsLeftInConnection(Pooled):
    """Who is cancelled between request and reply leaves the reply to the next."""

    async def handle(self, user):
        connection = await self.pool.get()
        try:
            connection.ask(user.secret())
            return await connection.replies.get()
        finally:
            self.pool.put_nowait(connection)


@fault()
class BatchRunsInFirstContext:
    """A batch is sent by a task of its first caller, with that one's context."""

    def __init__(self):
        self.batch = []

    async def handle(self, user):
        CURRENT.set(user.secret())
        await io()
        answer = asyncio.get_running_loop().create_future()
        self.batch.append(answer)
        if len(self.batch) == 1:
            self.task = asyncio.ensure_future(self.flush())
        return await answer

    async def flush(self):
        await asyncio.sleep(0)
        batch, self.batch = self.batch, []
        for answer in batch:
            if not answer.done():
                answer.set_result(CURRENT.get())


@fault()
class BufferBelongsToClass:
    """All emitters collect into the same list."""

    def __init__(self):
        self.buffer = []

    async def handle(self, user):
        self.buffer.append(user.secret())
        await io()
        sent = list(self.buffer)
        self.buffer.clear()
        return sent or user.secret()


@fault(requests=2)
class EmitterIsUsedByLateTask(Pooled):
    """A task that nobody waits for writes to an emitter that somebody else has by then."""

    async def handle(self, user):
        emitter = await self.pool.get()
        try:
            emitter.rows = []

            async def audit():
                await asyncio.sleep(0)
                emitter.rows.append(user.secret())

            self.task = asyncio.ensure_future(audit())
            await io()
            return sorted({*emitter.rows, user.secret()})
        finally:
            self.pool.put_nowait(emitter)


@fault(requests=2)
class TimeoutLeavesReply(Pooled):
    """After a timeout the reply is left in the connection."""

    async def handle(self, user):
        connection = await self.pool.get()
        try:
            connection.ask(user.secret(), 0.004)
            try:
                return await asyncio.wait_for(connection.replies.get(), 0.010)
            except TimeoutError:
                return user.secret()
        finally:
            self.pool.put_nowait(connection)


@fault()
class OneRunsWhileAnotherWaits:
    """Twelve awaits of one user must all happen within one await of another."""

    def __init__(self):
        self.done = None

    async def handle(self, user):
        if user.index % 3 == 1:
            for _ in range(12):
                await asyncio.sleep(0)
            self.done = user.secret()
        elif user.index % 3 == 2:
            before = self.done
            await asyncio.sleep(0)
            if self.done != before:
                return self.done
        return user.secret()


@fault()
class VersionComesBack:
    """One reads a version, another raises it, a third puts it back and its own record there."""

    def __init__(self):
        self.version, self.owner = 0, None

    async def handle(self, user):
        for _ in range(4):
            await asyncio.sleep(0)
        if user.index % 3 == 0:
            version, owner = self.version, self.owner
            await asyncio.sleep(0)
            if self.version == version and self.owner != owner:
                return self.owner
        elif user.index % 3 == 1:
            self.version += 1
        else:
            await asyncio.sleep(0)
            if self.version:
                self.version -= 1
                self.owner = user.secret()
        return user.secret()


@fault(requests=2)
class RollbackSkipsCancellation(Pooled):
    """What is undone in ``except Exception`` is not undone after a cancellation."""

    async def handle(self, user):
        connection = await self.pool.get()
        try:
            connection.rows.append(user.secret())
            await io()
            rows = list(connection.rows)
            connection.rows.clear()
        except Exception:
            connection.rows.clear()
            raise
        finally:
            self.pool.put_nowait(connection)
        return rows


# Twelve more


@fault()
class ClientIsMadeByFirst:
    """The client is made once, lazily, with the credentials of whoever comes first while nobody has one."""

    def __init__(self):
        self.client = None

    async def handle(self, user):
        if self.client is None:
            await io()
            self.client = user.secret()
        client = self.client
        await io()
        self.client = None
        return client


@fault()
class DefaultArgumentIsShared:
    """A mutable default argument carries headers from one request to another."""

    async def handle(self, user):
        return await self.send(user)

    async def send(self, user, headers={}):  # noqa: B006 # the fault
        headers["authorization"] = user.secret()
        await io()
        return dict(headers)


@fault()
class LockIsReleasedEarly:
    """What a lock protects is read after it was released."""

    def __init__(self):
        self.lock, self.current = asyncio.Lock(), None

    async def handle(self, user):
        async with self.lock:
            self.current = user.secret()
            await io()
        await asyncio.sleep(0)
        return self.current


@fault()
class LockIsKeptOnCancel:
    """Who is cancelled before its ``try`` keeps the lock for ever."""

    def __init__(self):
        self.lock = asyncio.Lock()

    async def handle(self, user):
        await self.lock.acquire()
        await io()
        try:
            return user.secret()
        finally:
            self.lock.release()


@fault()
class SemaphoreIsLostOnTimeout:
    """A permit is given back only when all went well."""

    def __init__(self):
        self.permits = asyncio.Semaphore(1)

    async def handle(self, user):
        await self.permits.acquire()
        await io()
        self.permits.release()
        return user.secret()


@fault()
class LocksAreTakenCrosswise:
    """Two users take two locks in different orders."""

    def __init__(self):
        self.locks = [asyncio.Lock(), asyncio.Lock()]

    async def handle(self, user):
        first, second = self.locks if user.index % 2 else reversed(self.locks)
        async with first:
            await io()
            async with second:
                return user.secret()


@fault()
class AnswersAreMatchedByOrder:
    """Answers are handed out in the order in which they come, not to those who asked."""

    def __init__(self):
        self.waiting, self.tasks = [], set()

    async def handle(self, user):
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)

        async def work():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            first = self.waiting.pop(0)
            if not first.done():
                first.set_result(user.secret())

        task = asyncio.ensure_future(work())
        self.tasks.add(task)
        return await answer


@fault()
class BatchIsZippedAfterCancel:
    """Whoever is cancelled leaves its question in a batch but takes its place among the answers away."""

    def __init__(self):
        self.questions, self.answers, self.task = [], [], None

    async def handle(self, user):
        answer = asyncio.get_running_loop().create_future()
        self.questions.append(user.secret())
        self.answers.append(answer)
        if self.task is None:
            self.task = asyncio.ensure_future(self.flush())
        try:
            return await answer
        except asyncio.CancelledError:
            if answer in self.answers:
                self.answers.remove(answer)
            raise

    async def flush(self):
        await io()
        for question, answer in zip(self.questions, self.answers, strict=False):
            answer.set_result(question)
        self.questions, self.answers, self.task = [], [], None


@fault()
class KeyIsReadLate:
    """The key under which an answer is cached is read after the await."""

    def __init__(self):
        self.cache, self.key = {}, None

    async def handle(self, user):
        self.key = user.id
        await io()
        self.cache[self.key] = user.secret()
        return self.cache.get(user.id, "nothing")


@fault()
class CommitCountsEverybody:
    """One unit of work for all: a commit writes what others had not finished, and says how much that was."""

    def __init__(self):
        self.pending = []

    async def handle(self, user):
        self.pending.append(user.secret())
        await io()
        count = len(self.pending)
        self.pending.clear()
        return {"user": user.id, "written": count}


@fault()
class CancelIsPassedOn:
    """Those who wait for the same start are cancelled with the one who began it."""

    def __init__(self):
        self.start = None

    async def handle(self, user):
        if self.start is None:
            self.start = asyncio.ensure_future(io())
        await self.start
        return user.secret()


@fault()
class SlotOfTheGoneIsReused:
    """A slot is free as soon as its user is gone, and what was on its way to that user is still delivered there."""

    def __init__(self):
        self.slots, self.tasks = {}, set()

    async def handle(self, user):
        slot = next(slot for slot in range(99) if slot not in self.slots)
        self.slots[slot] = asyncio.Queue()

        async def push():
            await io()
            if slot in self.slots:
                self.slots[slot].put_nowait(user.secret())

        self.tasks.add(asyncio.ensure_future(push()))
        try:
            return await self.slots[slot].get()
        finally:
            del self.slots[slot]


# Correct ones


@control(requests=2)
class PoolIsReset(Pooled):
    """A connection is emptied whatever happens."""

    size = 2

    async def handle(self, user):
        connection = await self.pool.get()
        try:
            connection.rows.append(user.secret())
            await io()
            return list(connection.rows)
        finally:
            connection.rows.clear()
            self.pool.put_nowait(connection)


@control()
class ContextVariable:
    """The user of the moment is in a context variable, also in tasks."""

    async def handle(self, user):
        CURRENT.set(user.secret())
        await io()
        await asyncio.gather(io(), io())
        return CURRENT.get()


@control()
class LockAroundAll:
    """What all share is used under a lock."""

    def __init__(self):
        self.lock, self.current = asyncio.Lock(), None

    async def handle(self, user):
        async with self.lock:
            self.current = user.secret()
            await io()
            return self.current


@control()
class FlightByUser:
    """Only a user's own questions share an answer."""

    def __init__(self):
        self.flights = {}

    async def handle(self, user):
        if user.id not in self.flights:

            async def fetch():
                await io()
                return user.secret()

            self.flights[user.id] = asyncio.ensure_future(fetch())
            self.flights[user.id].add_done_callback(lambda _: self.flights.pop(user.id))
        return await asyncio.shield(self.flights[user.id])


@control(requests=2)
class ConnectionIsDroppedOnCancel(Pooled):
    """A connection with a reply under way is not used again."""

    async def handle(self, user):
        connection, good = await self.pool.get(), False
        try:
            connection.ask(user.secret())
            reply = await connection.replies.get()
            good = True
            return reply
        finally:
            self.pool.put_nowait(connection if good else Connection())


@control()
class LocksInOrder:
    """Everybody takes two locks in the same order."""

    def __init__(self):
        self.locks = [asyncio.Lock(), asyncio.Lock()]

    async def handle(self, user):
        async with self.locks[0]:
            await io()
            async with self.locks[1]:
                return user.secret()


@control()
class PermitIsGivenBack:
    """A permit is given back whatever happens."""

    def __init__(self):
        self.permits = asyncio.Semaphore(2)

    async def handle(self, user):
        async with self.permits:
            await io()
            return user.secret()


@control()
class BatchByFuture:
    """Everybody in a batch has a question and an answer of its own, together."""

    def __init__(self):
        self.batch, self.task = [], None

    async def handle(self, user):
        answer = asyncio.get_running_loop().create_future()
        self.batch.append((user.secret(), answer))
        if self.task is None:
            self.task = asyncio.ensure_future(self.flush())
        return await answer

    async def flush(self):
        await io()
        batch, self.batch, self.task = self.batch, [], None
        for question, answer in batch:
            if not answer.done():
                answer.set_result(question)


@control()
class StartIsShielded:
    """All wait for the same start, and nobody who is cancelled takes it from the others."""

    def __init__(self):
        self.start = None

    async def handle(self, user):
        if self.start is None:
            self.start = asyncio.ensure_future(io())
        await asyncio.shield(self.start)
        return user.secret()


@control()
class SlotIsTakenAtOnce:
    """A slot is taken in the same step in which it was found free."""

    def __init__(self):
        self.slots = {}

    async def handle(self, user):
        free = next(slot for slot in range(99) if slot not in self.slots)
        self.slots[free] = user.secret()
        try:
            await io()
            return self.slots[free]
        finally:
            del self.slots[free]


@control(requests=2)
class TimeoutDropsConnection(Pooled):
    """After a timeout the connection is not used again."""

    async def handle(self, user):
        connection, good = await self.pool.get(), False
        try:
            connection.ask(user.secret(), 0.004)
            try:
                reply = await asyncio.wait_for(connection.replies.get(), 0.010)
            except TimeoutError:
                return user.secret()
            good = True
            return reply
        finally:
            self.pool.put_nowait(connection if good else Connection())


class Retried:
    """A user tries several times to be quick enough, which its own slowness alone can prevent."""

    tries = 2

    async def handle(self, user):
        """Fails when all tries have failed."""
        for _ in range(self.tries):
            try:
                async with asyncio.timeout(0.01):
                    for _ in range(3):
                        await asyncio.sleep(0)
            except TimeoutError:
                continue
            return user.secret()
        raise ValueError("gave up after all tries")


@control()
class TwoTriesTakeTime(Retried):
    """Alone it takes two deviations to fail."""


@control()
class ThreeTriesTakeTime(Retried):
    """Alone it takes three."""

    tries = 3


@control()
class RaceOfOwnTasks:
    """Which of a user's own tasks comes first is nobody else's doing."""

    async def handle(self, user):
        firsts = []

        async def run(name):
            for _ in range(3):
                await asyncio.sleep(0)
            firsts.append(name)

        await asyncio.gather(run("a"), run("b"), run("c"))
        return {"user": user.secret(), "first": firsts[0], "last": firsts[-1]}
