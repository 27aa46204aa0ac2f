"""The tables of the backend."""

from __future__ import annotations

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """All tables of the backend; of those with a column ``user_id`` PostgreSQL shows a user its own rows only."""


class Note(Base):
    """Something that a user wrote."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]
