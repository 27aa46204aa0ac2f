"""Who somebody is, on their own word and our signature."""

from __future__ import annotations

from secrets import token_urlsafe

from itsdangerous import BadSignature, URLSafeTimedSerializer


class Unauthorised(Exception):
    """There is no token, or it is not ours, or it is too old."""


class Tokens:
    """Issues and reads tokens.

    Args:
        secret: signs them; replicas have the same. None makes one up, and tokens end with the process.
        lifetime_s: how long one is good.
    """

    def __init__(self, secret: str | None = None, *, lifetime_s: int = 3600) -> None:
        self._serializer = URLSafeTimedSerializer(secret or token_urlsafe(32), salt="isolation.user")
        self._lifetime_s = lifetime_s

    def issue(self, user_id: str) -> str:
        """A token for a user; letters, digits, ``-``, ``_`` and ``.``."""
        return str(self._serializer.dumps(user_id))

    def read(self, token: str) -> str:
        """Whose token it is.

        Raises:
            Unauthorised: nobody's.
        """
        try:
            user_id = self._serializer.loads(token, max_age=self._lifetime_s)
        except BadSignature as error:  # too old is one of its kinds
            raise Unauthorised(str(error)) from None
        if not isinstance(user_id, str) or not user_id.strip():
            raise Unauthorised("the token names nobody")
        return user_id
