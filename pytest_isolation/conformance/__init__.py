"""The conformance suite: is a backend isolated, and within the seed budgets?

``pytest --pyargs pytest_isolation.conformance --isolation-budget --isolation-backend=shop.backend:create`` runs it
against any backend that has the shape of ``pytest_isolation.backend.Backend``.
"""
