"""Who is let in, what a bad request is told, and what anyone may see."""

from __future__ import annotations

from itertools import product

from openapi_spec_validator import validate

from omactl.access.keys import ADMIN_TOKEN, COOKIE
from omactl.api.openapi import document
from omactl.api.routes import ROUTES

V1 = "/api/v1"


def concrete(path):
    return path.replace("{job_id}", "job-1").replace("{key}", "web01")


WRONG = [None, "Bearer wrong", "Basic YTpi", "Bearer ", "Bearer é"]


async def test_no_or_a_wrong_token_is_401_everywhere(anyone, problem):
    for route, header in product((each for each in ROUTES if not each.open), WRONG):
        headers = {} if header is None else {"Authorization": header.encode()}
        problem(await anyone.request(route.method, concrete(route.path), headers=headers), 401, "unauthorized")


async def test_unknown_paths_want_a_token_too(anyone, client, problem):
    problem(await anyone.get("/api/v1/secret"), 401, "unauthorized")
    problem(await client.get("/api/v1/secret"), 404, "no_such_route")


async def test_a_wrong_method_names_the_right_ones(client, problem):
    response = await client.put(f"{V1}/replications")
    problem(response, 405, "method_not_allowed")
    assert {"GET", "POST"} <= set(response.headers["allow"].split(", "))


BODIES = [b"{", b"[]", b"\xff\xfe", b'{"vm_names": 7, "name": 7, "rate_limit": "x"}', b"null"]


async def test_a_malformed_body_is_one_clear_line(client, problem):
    for path, body in product(("replications", "discovery/add-vms", "sources"), BODIES):
        said = problem(await client.post(f"{V1}/{path}", content=body), 400, "malformed_json")
        assert "\n" not in said.detail


async def test_a_body_without_end_is_refused(client, problem):
    problem(await client.post(f"{V1}/replications", content=b" " * (1 << 20) + b"{}"), 413, "too_large")


QUERIES = ["limit=0", "limit=x", "limit=9999", "live=maybe", "cursor=zzz", "machine=", "kind=%00"]


async def test_a_bad_parameter_is_named(client, problem):
    for query in QUERIES:
        said = problem(await client.get(f"{V1}/jobs?{query}"), 400, "invalid_parameter")
        assert query.partition("=")[0] in said.detail


async def test_unknown_ids_are_404(client):
    for path in ("jobs/nothing", "replications/nothing", "progress/nothing", "vm-contexts/nothing"):
        response = await client.get(f"{V1}/{path}")
        assert response.status_code == 404 and response.json()["advice"]


async def test_what_is_unforeseen_shows_no_traceback(world, client, problem):
    world.control.recovery.state = None
    problem(await client.get(f"{V1}/recovery"), 500, "internal")


async def test_the_admin_token_is_written_once_for_this_user_alone(world, app):
    state = world.control.settings.state
    path = state / ADMIN_TOKEN
    before = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not await app.state.world.keys.first_start(state)
    assert path.read_text() == before
    assert before.strip() not in (state / "oma.sqlite").read_bytes().decode("latin-1"), "only its hash is kept"


async def test_a_link_opens_the_page_once(client, anyone, problem):
    path = (await client.post(f"{V1}/access/links")).json()["path"]
    assert (await anyone.head(path)).status_code == 204, "a preview does not spend it"
    opened = await anyone.get(path)
    assert (opened.status_code, opened.headers["location"]) == (303, "/")
    cookie = opened.headers["set-cookie"].lower()
    assert COOKIE in cookie and "httponly" in cookie and "samesite=strict" in cookie
    page = await anyone.get("/")
    assert page.status_code == 200 and "No jobs yet" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    problem(await anyone.get(path), 401, "link_used")


async def test_the_page_escapes_what_machines_are_called(world, client):
    world.agent.machines[0].name = "<script>alert(1)</script>"
    await world.ended(await world.replicate())
    page = await client.get("/")
    assert "&lt;script&gt;" in page.text and "<script>" not in page.text


async def test_another_site_cannot_use_the_cookie(client, anyone, problem):
    await anyone.get((await client.post(f"{V1}/access/links")).json()["path"])
    headers = {"Sec-Fetch-Site": "cross-site"}
    problem(await anyone.post(f"{V1}/jobs/x/cancel", headers=headers), 401, "unauthorized")
    problem(await anyone.post(f"{V1}/jobs/x/cancel", headers={"Sec-Fetch-Site": "same-origin"}), 404, "job_unknown")


async def test_health_is_open_and_asks_every_part(world, anyone):
    health = (await anyone.get("/health")).json()
    assert (health["service"], health["status"], health["database"]) == ("OMA API", "healthy", "connected")
    assert (health["omavol"], health["sources"]) == ("healthy", {"lab": "connected"})
    assert health["monitor"]["running"]
    world.agent.token = "another"
    health = (await anyone.get("/health")).json()
    assert (health["status"], health["sources"]) == ("degraded", {"lab": "refused"})


async def test_health_shows_what_is_away(world, anyone):
    await world.stack.aclose()
    health = (await anyone.get("/health")).json()
    assert (health["status"], health["omavol"], health["sources"]) == (
        "degraded",
        "unreachable",
        {"lab": "unreachable"},
    )


async def test_recovery_is_shown_with_its_reasons(world, client):
    world.agent.autopilot = False
    job = await world.replicate()
    await world.at_step(job, "replicating")
    page = (await client.get(f"{V1}/recovery")).json()
    assert (page["state"], page["decisions"]) == ("completed", [])


async def test_the_api_document_is_valid_and_covers_every_route(client):
    served = (await client.get("/openapi.json")).json()
    validate(served)
    described = {(method.upper(), path) for path, methods in served["paths"].items() for method in methods}
    assert described == {(route.method, route.path) for route in ROUTES}
    assert len({method["operationId"] for path in document()["paths"].values() for method in path.values()}) == len(
        ROUTES
    )
