"""Request isolation for multi-user backends: nothing of one user reaches another, within a latency budget.

This is *request* isolation (the users of a backend), not *test* isolation.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
