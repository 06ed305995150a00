"""The page behind the one-time link: the jobs there are, rendered here, every value escaped."""

from __future__ import annotations

from html import escape

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from omactl.access.keys import COOKIE, SESSION_LASTS
from omactl.api.body import world
from omactl.api.present import row_values
from omactl.rules.messages import Failure
from omactl.store import queries
from omactl.store.queries import Filter, Listed
from omavol import __version__

__all__ = ["login", "page"]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="5">
<title>OMA jobs</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ text-align: left; padding: .4rem .8rem; border-bottom: 1px solid #ccc; vertical-align: top }}
.failed {{ color: #a40000 }} .completed {{ color: #1c6b1c }}
</style></head>
<body><h1>Jobs</h1>
<table><thead><tr><th>Machine</th><th>Job</th><th>Status</th><th>Progress</th><th>Started</th><th>Now</th></tr></thead>
<tbody>{rows}</tbody></table>
<p>OMA {version} · <a href="/openapi.json">API document</a> · <a href="/health">health</a></p>
</body></html>
"""


async def login(request: Request) -> Response:
    """Spend the code of a one-time link; the browser gets a session of its own."""
    if request.method == "HEAD":  # a look at the link, by whatever shows previews of links, does not spend it
        return Response(status_code=204)
    session = await world(request).keys.open_session(request.query_params.get("code", ""))
    if session is None:
        raise Failure("link_used")
    response = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        COOKIE,
        session,
        max_age=int(SESSION_LASTS.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def page(request: Request) -> Response:
    listed = await world(request).control.database.read(queries.list_jobs, Filter(limit=100))
    rows = "".join(_row(line) for line in listed.lines) or '<tr><td colspan="6">No jobs yet.</td></tr>'
    html = _PAGE.format(rows=rows, version=escape(__version__))
    return Response(html, media_type="text/html", headers=_HEADERS)


def _row(line: Listed) -> str:
    values = row_values(line)
    advice = "".join(f"<br>{escape(step)}" for step in values.get("actionable_steps", ()))
    said = escape(values.get("error_message") or values["current_step"] or "") + advice
    cells = (
        escape(line.vm_name),
        escape(values["display_name"]),
        f'<span class="{escape(values["status"])}">{escape(values["status"])}</span>',
        f"{values['progress']:.0f} %",
        escape(f"{values['started_at']:%Y-%m-%d %H:%M:%S}"),
        said,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
