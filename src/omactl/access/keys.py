"""Makes tokens and one-time links, and tells whose token came with a request."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import timedelta
from pathlib import Path

from omactl.store import tokens
from omactl.store.engine import Database
from omactl.store.tokens import Token, TokenKind
from omavol.schema.common import now

__all__ = ["ADMIN_TOKEN", "COOKIE", "SESSION_LASTS", "Keys", "write_secret"]

ADMIN_TOKEN = "admin-token"
COOKIE = "oma_session"
LINK_LASTS = timedelta(hours=1)
SESSION_LASTS = timedelta(hours=12)
_BEARER = "bearer "


class Keys:
    """The tokens of one database. A token has 256 random bits, so that a plain hash of it is safe to keep."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def first_start(self, state: Path) -> bool:
        """Write the admin token, readable for this user alone, if this database has no token yet; whether it did."""
        if await self._database.read(tokens.count, TokenKind.BEARER):
            return False
        token = secrets.token_urlsafe(32)
        write_secret(state / ADMIN_TOKEN, token)
        await self._add(token, TokenKind.BEARER, "admin", None)
        return True

    async def new_link(self, name: str) -> str:
        """The code of a link that opens the page once, within an hour."""
        code = secrets.token_urlsafe(32)
        await self._add(code, TokenKind.LINK, name, LINK_LASTS)
        return code

    async def open_session(self, code: str) -> str | None:
        """Spend a one-time code; the cookie of the session it opens, or None when it is worth nothing."""
        link = await self._database.write(tokens.spend, _hash(code))
        if link is None:
            return None
        session = secrets.token_urlsafe(32)
        await self._add(session, TokenKind.SESSION, link.name, SESSION_LASTS)
        return session

    async def who(self, authorization: str | None, cookie: str | None) -> Token | None:
        """The token that came in the header, or else in the cookie; None when there is no valid one."""
        if authorization is not None:
            if not authorization.lower().startswith(_BEARER):
                return None
            presented = authorization[len(_BEARER) :].strip()
            return await self._database.read(tokens.find, _hash(presented), (TokenKind.BEARER,))
        if cookie:
            return await self._database.read(tokens.find, _hash(cookie), (TokenKind.SESSION,))
        return None

    async def _add(self, token: str, kind: TokenKind, name: str, lasts: timedelta | None) -> None:
        expires = now() + lasts if lasts else None
        await self._database.write(tokens.add, Token(_hash(token), kind, name, "admin", expires))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_secret(path: Path, secret: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{secret}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
