"""A pool of emitters that trusts every request to get to its flush; the repaired one empties what comes back."""

import asyncio
import os

IS_FIXED = os.environ["INCIDENT_VARIANT"] == "fixed"


class Emitter:
    def __init__(self):
        self.events = []


free = [Emitter() for _ in range(8)]


async def chat(name):
    emitter = free.pop() if free else Emitter()
    try:
        emitter.events.append(f"{name} begins")
        await asyncio.sleep(0.001)
        emitter.events.append(f"{name} ends")
        flushed, emitter.events = emitter.events, []
        return flushed
    finally:
        if IS_FIXED:
            emitter.events = []
        free.append(emitter)
