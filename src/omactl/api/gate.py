"""Who is let in: every route but a few wants a token, in a header or in the page's cookie."""

from __future__ import annotations

from typing import cast

import sqlalchemy as sa
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from omactl.access.keys import COOKIE
from omactl.api.problem import refusal
from omactl.api.world import World
from omactl.rules.messages import Failure

__all__ = ["OPEN", "Gate"]

OPEN = frozenset({"/health", "/login"})
"""Paths that need no token. Unknown paths need one too, so that nobody learns which there are."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Gate:
    """Puts the token's owner into `request.state.token`, or answers 401 itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        world = cast(World, request.app.state.world)
        authorization, cookie = request.headers.get("authorization"), request.cookies.get(COOKIE)
        try:
            token = await world.keys.who(authorization, cookie)
        except sa.exc.SQLAlchemyError as error:
            await refusal(Failure("database_unavailable", str(error)), request.url.path)(scope, receive, send)
            return
        if token is None or (authorization is None and not _same_site(request)):
            await refusal(Failure("unauthorized"), request.url.path)(scope, receive, send)
            return
        scope.setdefault("state", {})["token"] = token
        await self._app(scope, receive, send)


def _same_site(request: Request) -> bool:
    """A cookie alone may change nothing on behalf of another site (the cookie is SameSite=Strict besides)."""
    return request.method in _SAFE_METHODS or request.headers.get("sec-fetch-site") in ("same-origin", "none", None)
