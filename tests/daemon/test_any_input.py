"""Whatever comes in, the answer is a problem of the caller's, never a fault of the daemon."""

from __future__ import annotations

from urllib.parse import quote

import httpx2
import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from omavol.schema.common import Problem

ABSENT = "01234567-0123-7123-8123-0123456789ab"
ROUTES = [
    ("POST", "/volumes"),
    ("POST", f"/volumes/{ABSENT}/attach"),
    ("POST", f"/volumes/{ABSENT}/sessions"),
    ("POST", f"/volumes/{ABSENT}/sessions/{ABSENT}/prove"),
    ("PUT", "/provider"),
]
NAMES = ["name", "size", "metadata", "vm_id", "job", "epoch", "kind", "base", "point", "level", "appliance_vm_id"]
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner), max_leaves=6
)
bodies = st.binary(max_size=200) | values.map(msgspec.json.encode)
SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refused(answer: httpx2.Response) -> None:
    if answer.status_code in (200, 201):
        return  # by chance it was a right one
    problem = msgspec.json.decode(answer.content, type=Problem)
    assert 400 <= answer.status_code == problem.status < 500, answer.text
    assert problem.code
    assert problem.detail


@SETTINGS
@given(route=st.sampled_from(ROUTES), body=bodies)
def test_any_body_is_taken_or_refused(shared_daemon, route, body):
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(shared_daemon.socket))) as http:
        headers = {"content-type": "application/json"}
        refused(http.request(route[0], f"http://omavol/api/v1{route[1]}", content=body, headers=headers))


@SETTINGS
@given(query=st.dictionaries(st.sampled_from(["type", "status", "limit", "wait", "volume_id", "vm_id"]), st.text()))
def test_any_query_is_taken_or_refused(shared_daemon, query):
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(shared_daemon.socket))) as http:
        refused(http.get("http://omavol/api/v1/operations", params=query))


@SETTINGS
@given(segment=st.text(min_size=1, max_size=40))
@example(segment="/")
def test_any_id_is_unknown(shared_daemon, segment):
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(shared_daemon.socket))) as http:
        for path in ("volumes/{}", "operations/{}", "exports/{}", "volumes/{}/sessions", "volumes/{}/device"):
            refused(http.get("http://omavol/api/v1/" + path.format(quote(segment, safe=""))))
