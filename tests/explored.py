"""Scenarios that explorations play: a pool whose rows a cancelled user leaves behind, on asyncio and on trio."""

_POOL = """
    import {library}, pytest
    class Pool:
        def __init__(self):
{opens}
    async def leaky(user, pool):
        rows = {take}
        try:
            rows.append(user.secret("note"))
            await {library}.sleep(0.001)
            user.observe(list(rows))
            rows.clear()
        finally:
            pool.free.{give}(rows)
    async def correct(user, pool):
        rows = {take}
        try:
            rows.append(user.secret("note"))
            await {library}.sleep(0.001)
            user.observe(list(rows))
        finally:
            rows.clear()
            pool.free.{give}(rows)
"""
ON_ASYNCIO = _POOL.format(
    library="asyncio",
    opens="""\
            self.free = asyncio.Queue()
            for _ in range(2):
                self.free.put_nowait([])""",
    take="await pool.free.get()",
    give="put_nowait",
)
ON_TRIO = _POOL.format(
    library="trio",
    opens="            self.free = [[]]",
    take="pool.free.pop() if pool.free else []",
    give="append",
)
