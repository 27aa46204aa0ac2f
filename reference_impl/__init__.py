"""A complete backend built for request isolation: contexts, agents, emitters, sessions, closed as one scope."""

from reference_impl.backend import ReferenceBackend, create_backend

__all__ = ["ReferenceBackend", "create_backend"]
