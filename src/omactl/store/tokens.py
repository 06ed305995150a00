"""Access tokens, sessions of the page and one-time links, of which only hashes are kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from omactl.store.schema import tokens
from omavol.schema.common import now

__all__ = ["Token", "TokenKind", "add", "count", "find", "spend"]


class TokenKind(StrEnum):
    """`bearer` goes into a header, `session` into a cookie; a `link` is spent by its first use."""

    BEARER = "bearer"
    SESSION = "session"
    LINK = "link"


@dataclass(frozen=True)
class Token:
    hash: str
    kind: TokenKind
    name: str
    role: str
    expires_at: datetime | None


async def add(connection: AsyncConnection, token: Token) -> None:
    """Keep a token's hash; expired ones are dropped on the way."""
    await connection.execute(sa.delete(tokens).where(tokens.c.expires_at < now()))
    await connection.execute(
        sa.insert(tokens).values(
            hash=token.hash,
            kind=token.kind.value,
            name=token.name,
            role=token.role,
            created_at=now(),
            expires_at=token.expires_at,
        )
    )


async def find(connection: AsyncConnection, hashed: str, kinds: tuple[TokenKind, ...]) -> Token | None:
    """The token of that hash, if it is of one of the kinds and has not expired."""
    row = (
        await connection.execute(
            sa.select(tokens).where(
                tokens.c.hash == hashed,
                tokens.c.kind.in_([kind.value for kind in kinds]),
                sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > now()),
            )
        )
    ).one_or_none()
    return None if row is None else Token(row.hash, TokenKind(row.kind), row.name, row.role, row.expires_at)


async def spend(connection: AsyncConnection, hashed: str) -> Token | None:
    """Use a one-time link: the token it was, or None if it was spent, has expired or never was."""
    link = await find(connection, hashed, (TokenKind.LINK,))
    if link is None:
        return None
    await connection.execute(sa.delete(tokens).where(tokens.c.hash == hashed))
    return link


async def count(connection: AsyncConnection, kind: TokenKind) -> int:
    """How many tokens of that kind there are."""
    counted = await connection.execute(sa.select(sa.func.count()).where(tokens.c.kind == kind.value))
    return int(counted.scalar_one())
