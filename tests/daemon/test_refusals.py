"""Bad requests: each a problem document with a stable code, and the daemon goes on."""

from __future__ import annotations

import httpx2
import pytest

ABSENT = "01234567-0123-7123-8123-0123456789ab"

BAD = [
    ("POST", "/volumes", {"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed_json"),
    ("POST", "/volumes", {"json": {"name": "v"}}, 400, "invalid_body"),
    ("POST", "/volumes", {"json": {"name": "../v", "size": 1}}, 400, "invalid_body"),
    ("POST", "/volumes", {"json": {"name": "v", "size": 0}}, 400, "bad_size"),
    ("POST", "/volumes", {"json": {"name": "v", "size": -1}}, 400, "invalid_body"),
    ("POST", "/volumes", {"json": {"name": "v", "size": 2**63 - 1}}, 400, "bad_size"),
    ("POST", "/volumes", {"json": {"name": "v", "size": 2**63}}, 400, "invalid_body"),
    ("POST", f"/volumes/{ABSENT}/sessions", {"json": {"job": "j", "epoch": 2**63}}, 400, "bad_epoch"),
    ("GET", "/volumes/%00", {}, 404, "unknown_volume"),
    ("GET", "/volumes/%ff%fe", {}, 404, "unknown_volume"),
    ("POST", "/volumes", {"content": b"{}"}, 415, "json_wanted"),
    (
        "POST",
        "/volumes",
        {"content": b" " * 70000, "headers": {"content-type": "application/json"}},
        413,
        "body_too_large",
    ),
    ("GET", f"/volumes/{ABSENT}", {}, 404, "unknown_volume"),
    ("GET", "/volumes/%2e%2e%2fetc", {}, 404, "no_such_route"),
    ("DELETE", f"/volumes/{ABSENT}", {}, 404, "unknown_volume"),
    ("POST", f"/volumes/{ABSENT}/attach", {"json": {"vm_id": "x"}}, 404, "unknown_volume"),
    ("POST", f"/volumes/{ABSENT}/detach", {}, 404, "unknown_volume"),
    ("GET", f"/volumes/{ABSENT}/sessions", {}, 404, "unknown_volume"),
    ("POST", f"/volumes/{ABSENT}/sessions", {"json": {"job": "j", "epoch": 1}}, 404, "unknown_volume"),
    ("POST", f"/volumes/{ABSENT}/sessions", {"json": {"job": "j", "epoch": -1}}, 400, "bad_epoch"),
    ("GET", f"/operations/{ABSENT}", {}, 404, "unknown_operation"),
    ("GET", "/operations?type=dance", {}, 400, "bad_filter"),
    ("GET", "/operations?limit=nan", {}, 400, "bad_limit"),
    ("GET", f"/operations/{ABSENT}?wait=1e9", {}, 400, "bad_wait"),
    ("GET", f"/exports/{ABSENT}", {}, 404, "unknown_volume"),
    ("GET", "/nothing", {}, 404, "no_such_route"),
    ("PATCH", "/volumes", {}, 405, "method_not_allowed"),
    ("PUT", "/provider", {"json": {"kind": "moon", "appliance_vm_id": "a"}}, 400, "provider_misconfigured"),
    ("PUT", "/provider", {"json": {"kind": "local", "appliance_vm_id": ""}}, 400, "invalid_body"),
]


@pytest.mark.parametrize(
    ("method", "path", "request_", "status", "code"), BAD, ids=[f"{b[0]} {b[1]} {b[4]}" for b in BAD]
)
async def test_a_bad_request_is_a_problem_with_a_code(shared_daemon, method, path, request_, status, code):
    transport = httpx2.AsyncHTTPTransport(uds=str(shared_daemon.socket))
    async with httpx2.AsyncClient(transport=transport, base_url="http://omavol/api/v1") as http:
        answer = await http.request(method, path, **request_)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["detail"] == problem["error"] == problem["message"]
    assert problem["success"] is False
    assert "Traceback" not in answer.text
