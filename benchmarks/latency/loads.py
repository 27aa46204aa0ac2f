"""Work whose cost in CPU time is known."""

import time
from time import thread_time


def work(amount: int) -> None:
    """So many units of it."""
    table = {}
    for number in range(amount):
        table[number & 63] = (number, str(number))


class Unit:
    """The CPU time of one unit of work at full speed, by its best quarter; neither clock nor verdict is asked."""

    def __init__(self) -> None:
        self._costs = []
        for _ in range(40):
            self.measure()
            time.sleep(0.02)

    def measure(self) -> float:
        for _ in range(20):
            begun = thread_time()
            work(2000)
            self._costs.append((thread_time() - begun) / 2000)
        return sorted(self._costs)[len(self._costs) // 4]
