"""Who may ask: the bearer of the token that the first start wrote; only health is open to all."""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from omavol.agent.errors import AgentError

__all__ = ["OPEN_PATHS", "Gate", "TokenError", "load_token"]

OPEN_PATHS = frozenset({"/api/v1/health"})
TOKEN_BYTES = 32
MINIMUM_LENGTH = 16


class TokenError(Exception):
    """The token's file cannot be used; the message is for the person who starts the agent."""


def load_token(path: Path) -> tuple[str, bool]:
    """The token in `path`, and whether it was made just now (random, mode 0600)."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return _read(path), False
    except OSError as error:
        raise TokenError(f"the token file {path} cannot be made: {error.strerror}") from error
    token = secrets.token_urlsafe(TOKEN_BYTES)
    try:
        os.write(descriptor, f"{token}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return token, True


def _read(path: Path) -> str:
    try:
        token = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenError(f"the token file {path} cannot be read: {error}") from error
    if len(token) < MINIMUM_LENGTH or not token.isprintable() or " " in token:
        raise TokenError(
            f"the token file {path} holds no token of {MINIMUM_LENGTH} letters; remove it to get a new one"
        )
    return token


class Gate:
    """ASGI middleware: a request without the token gets 401 and goes no further. Compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        from omavol.agent.answers import problem_answer

        refusal = AgentError("not_authorised", "the request carries no valid token")
        response = problem_answer(refusal, scope["path"])
        response.headers["WWW-Authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)
