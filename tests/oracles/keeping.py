"""Keeps an object in every way that there is, and prints what is said to keep it, as JSON; run by test_retention.py."""

import asyncio
import contextvars
import ctypes
import functools
import gc
import itertools
import json
import socket
import threading
import weakref

from pytest_isolation.users.holding import chains
from pytest_isolation.users.links import tell


class Message:
    def __init__(self):
        self.text = "hello"

    def show(self):
        return self.text


class Slotted:
    __slots__ = ("message",)


class Store:
    def __init__(self):
        self.cache, self.slot = {}, Slotted()


class Inbox:
    messages = []  # noqa: RUF012


store, kept, last = Store(), [], None
weak = weakref.WeakValueDictionary()
local = threading.local()
tenant = contextvars.ContextVar("tenant", default=None)
pair_of_sockets = socket.socketpair()
SAID = {}


@functools.lru_cache
def load(_key):
    return Message()


@functools.cache
def load_all(_key):
    return Message()


@functools.lru_cache
def count(_message):
    return 1


def say(name, keep):
    """Have a new object kept, and note what is said to keep it."""
    message = Message()
    alive = weakref.ref(keep(message) or message)
    del message
    look(name, alive)


def look(name, alive):
    gc.collect()
    objects = [one for one in [alive()] if one is not None]
    is_alive = bool(objects)
    found = chains(objects)
    SAID[name] = tell(next(iter(found.values()))) if found else "nothing" if is_alive else "dead"


def in_global(message):
    global last  # noqa: PLW0603
    last = message


def in_traceback(message):
    def handle(note):
        raise ValueError("no")

    global last  # noqa: PLW0603
    try:
        handle(message)
    except ValueError as error:
        last = error


def in_closure(message):
    def answer():
        return message

    kept.append(answer)


def in_context(message):
    context = contextvars.copy_context()
    context.run(tenant.set, message)
    kept.append(context)


def in_generator(message):
    def pages(note):
        yield note

    generator = pages(message)
    next(generator)
    kept.append(generator)


def in_cycle(message):
    message.me = message


def in_a_cycle_that_is_kept(message):
    ring = [message]
    ring.append(ring)
    kept.append(ring)


def in_c(message):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(message))


def in_store_and_traceback(message):
    in_traceback(message)
    store.cache["far"] = [[[message]]]


WAYS = {
    "a module global": in_global,
    "a container": lambda message: store.cache.update(last=[(message,)]),
    "a slot": lambda message: setattr(store.slot, "message", message),
    "a class attribute": lambda message: Inbox.messages.append(message),
    "a closure": in_closure,
    "a default": lambda message: kept.append(lambda note=message: note),
    "a bound method": lambda message: kept.append(message.show),
    "a partial": lambda message: kept.append(functools.partial(print, message)),
    "lru_cache": lambda _: load(1),
    "lru_cache without a limit": lambda _: load_all(1),
    "a key of lru_cache": lambda message: count(message) and None,
    "a traceback": in_traceback,
    "a thread-local": lambda message: setattr(local, "user", message),
    "a saved Context": in_context,
    "the current Context": lambda message: tenant.set(message) and None,
    "a generator": in_generator,
    "a key": lambda message: kept.append({message: 1}),
    "a set": lambda message: kept.append({message}),
    "an object of C": lambda message: kept.append(itertools.repeat(message)),
    "a weak dictionary": lambda message: weak.update(one=message),
    "a cycle": in_cycle,
    "a cycle that is kept": in_a_cycle_that_is_kept,
    "C code": in_c,
    "a store, far, and a traceback, near": in_store_and_traceback,
}


def clear():
    global last  # noqa: PLW0603
    last = None
    for one in (store.cache, Inbox.messages, kept, local.__dict__):
        one.clear()
    store.slot.message = None
    tenant.set(None)
    for one in (load, load_all, count):
        one.cache_clear()


def running():
    note = Message()
    look("a running function", weakref.ref(note))


async def push(note):
    await asyncio.sleep(10)


async def push_later(note):
    await push(None)


def call_later(message, *cancel):
    handle = asyncio.get_running_loop().call_later(100, print, message)
    if cancel:
        handle.cancel()


def call_later_in_context(message, *cancel):
    def call():
        tenant.set(message)
        handle = asyncio.get_running_loop().call_later(100, print)
        if cancel:
            handle.cancel()

    contextvars.copy_context().run(call)


def task_with_context(message):
    context = contextvars.copy_context()
    context.run(tenant.set, message)
    kept.append(context.run(asyncio.create_task, push(None)))


async def on_the_loop():
    loop = asyncio.get_running_loop()
    say("a task that waits", lambda message: kept.append(asyncio.create_task(push_later(message))))
    kept.pop().cancel()
    await asyncio.sleep(0)
    say("a task's Context", task_with_context)
    task = kept.pop()
    await asyncio.sleep(0)
    task.cancel()
    del task
    await asyncio.sleep(0.01)
    say("a timer", call_later)
    say("a timer's Context", call_later_in_context)
    say("a timer that was cancelled", lambda message: call_later(message, True))
    say("the Context of a timer that was cancelled", lambda message: call_later_in_context(message, True))
    say("a reader of the loop", lambda message: loop.add_reader(pair_of_sockets[0], print, message))
    loop.remove_reader(pair_of_sockets[0])
    future = loop.create_future()
    say("a callback of a future", lambda message: future.add_done_callback(message.show))


for name, way in WAYS.items():
    say(name, way)
    clear()
running()
asyncio.run(on_the_loop())
stop = threading.Event()
thread = threading.Thread(target=lambda note: stop.wait(), args=(Message(),), name="pusher")
thread.start()
look("a thread", weakref.ref(thread._args[0]))
stop.set()
thread.join()
print(json.dumps(SAID))
