"""Every tenant has a cache object of its own; in aiocache 0.11 all of them were one dictionary of the class."""

import asyncio

from aiocache import SimpleMemoryCache

caches = {}


async def profile(name):
    cache = caches.setdefault(name, SimpleMemoryCache())
    found = await cache.get("profile")
    if found is None:
        await asyncio.sleep(0.001)
        found = f"profile of {name}"
        await cache.set("profile", found)
    return found
