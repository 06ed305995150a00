"""The fake's HTTP: /client/api as CloudStack answers it (ApiServer.java), and /faults, /machines to arrange things.

A request is signed with the secret over its parameters, sorted and in lower case (HMAC-SHA1, signature version 3 with
`expires`); what is wrong is told by the HTTP status and an `errorcode` in the answer.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omavol.cloud.fake.jobs import Fault, FaultKind, Faults, Jobs
from omavol.cloud.fake.model import Machine, Model, Refusal, Snapshot, Volume, new_id

__all__ = ["FakeCloud", "signature"]

UNAUTHORISED, MALFORMED, UNKNOWN = 401, 431, 432
JSON = "application/json;charset=UTF-8"
EXPIRES = "%Y-%m-%dT%H:%M:%S%z"


def signature(parameters: Mapping[str, str], secret: str) -> str:
    """CloudStack's over all parameters but itself, base64 (docs: "Signing API requests")."""
    pairs = sorted((key.lower(), quote(value, safe="*").lower()) for key, value in parameters.items())
    text = "&".join(f"{key}={value}" for key, value in pairs)
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha1).digest()).decode()


@dataclass
class FakeCloud:
    """Everything of one cloud; `app` is the ASGI application. `clock_skew`: seconds its clock is ahead.

    `state`: a file that keeps volumes, machines and snapshots from one start to the next. `log`: a file that gets a
    JSON line for each call: command, parameters without secrets, HTTP status.
    """

    model: Model
    key: str
    secret: str
    pace: float = 1.0
    clock_skew: float = 0.0
    state: Path | None = None
    log: Path | None = None
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.jobs = Jobs(self.faults, self.pace, self.keep)
        self._recall()
        self.app = Starlette(
            routes=[
                Route("/client/api", self._call, methods=["GET", "POST"]),
                Route("/faults", self._arrange, methods=["POST"]),
                Route("/machines", self._add_machine, methods=["POST"]),
            ]
        )

    # --- HTTP ---

    async def _call(self, request: Request) -> Response:
        parameters = {key: str(value) for key, value in request.query_params.items()}
        if request.method == "POST":
            parameters |= dict(parse_qsl((await request.body()).decode(), keep_blank_values=True))
        command = parameters.get("command", "")
        fault = self.faults.take(command, answer=True)
        if fault is not None and fault.kind is FaultKind.SLOW:
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind is FaultKind.UNHEARD:
            return Dropped()
        if fault is not None and fault.kind is FaultKind.STATUS:
            return Response(f"<html><h1>{fault.code}</h1></html>", fault.code, media_type="text/html")
        status, answer = self._answer(command, parameters)
        self._note(command, parameters, status)
        if fault is not None and fault.kind is FaultKind.LOST_ANSWER:
            return Dropped()
        body = json.dumps({f"{command.lower()}response": answer}).encode()
        if fault is not None and fault.kind is FaultKind.HALF:
            body = body[: len(body) // 2]
        return Response(body, status, headers={"content-type": JSON})

    async def _arrange(self, request: Request) -> Response:
        try:
            self.faults.add(msgspec.json.decode(await request.body(), type=Fault))
        except msgspec.DecodeError as error:
            return Response(f"{error}\n", 400)
        return Response(status_code=204)

    async def _add_machine(self, request: Request) -> Response:
        facts = await request.json()
        machine = self.model.add_machine(facts.get("id") or new_id(), facts.get("name", "machine"))
        machine.state, machine.has_snapshots = facts.get("state", "Running"), facts.get("has_snapshots", False)
        self.keep()
        return Response(json.dumps(machine.shown()), media_type="application/json")

    def _answer(self, command: str, parameters: dict[str, str]) -> tuple[int, dict[str, Any]]:
        try:
            self._check(parameters)
            if command not in COMMANDS:
                raise Refusal(
                    UNKNOWN, f"The given command '{command}' either does not exist, is not available for user"
                )
            handler, needed = COMMANDS[command]
            for name in needed:
                if not parameters.get(name):
                    raise Refusal(
                        MALFORMED, f"Unable to execute API command {command.lower()} due to missing parameter {name}"
                    )
            return 200, handler(self, parameters)
        except Refusal as refusal:
            error = {"uuidList": [], "errorcode": refusal.code, "cserrorcode": 9999, "errortext": refusal.text}
            return refusal.code, error

    def _check(self, parameters: dict[str, str]) -> None:
        given = parameters.pop("signature", "")
        key = next((value for name, value in parameters.items() if name.lower() == "apikey"), "")
        expected = signature(parameters, self.secret)
        if key != self.key or not hmac.compare_digest(given, expected):
            raise Refusal(UNAUTHORISED, "unable to verify user credentials and/or request signature")
        if parameters.get("signatureVersion") == "3":
            expires = datetime.strptime(parameters.get("expires", ""), EXPIRES)
            if expires.timestamp() < time.time() + self.clock_skew:
                raise Refusal(UNAUTHORISED, "unable to verify user credentials and/or request signature")

    def _note(self, command: str, parameters: Mapping[str, str], status: int) -> None:
        if self.log is not None:
            said = {key: value for key, value in parameters.items() if key.lower() not in ("apikey", "signature")}
            with self.log.open("a") as file:
                file.write(json.dumps({"command": command, "status": status, "parameters": said}) + "\n")

    # --- what outlives it ---

    def keep(self) -> None:
        if self.state is None:
            return
        kept = {
            name: {key: msgspec.to_builtins(each) for key, each in getattr(self.model, name).items()} for name in _KEPT
        }
        part = self.state.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=1))
        part.rename(self.state)

    def _recall(self) -> None:
        if self.state is None or not self.state.exists():
            return
        kept = json.loads(self.state.read_text())
        for name, kind in _KEPT.items():
            setattr(self.model, name, {key: kind(**facts) for key, facts in kept[name].items()})
        for volume in self.model.volumes:  # the jobs that worked on them are gone
            self.model.end(volume)
        for snapshot in self.model.snapshots.values():
            if snapshot.state == "Creating":
                snapshot.state = "Error"


_KEPT: dict[str, type[Any]] = {"volumes": Volume, "machines": Machine, "snapshots": Snapshot}


class Dropped(Response):
    """No answer: the connection ends."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


# --- commands -------------------------------------------------------------------------------------------------------


def _job(
    cloud: FakeCloud,
    command: str,
    about: str | None,
    effect: Callable[[bool], dict[str, Any]],
    failed: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    job = cloud.jobs.start(command, about, effect, failed)
    return {"jobid": job.id} if about is None else {"id": about, "jobid": job.id}


def _create(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id, size = new_id(), _number(asked, "size")
    assert size is not None
    cloud.model.create(id, asked["name"], size)  # it is there, Allocated, before the job is done
    cloud.keep()
    return _job(cloud, "createVolume", id, lambda plug: {"volume": cloud.model.volume(id).shown()})


def _attach(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id, machine, device = asked["id"], asked["virtualmachineid"], _number(asked, "deviceid")
    cloud.model.volume(id)
    cloud.model.machine(machine)
    return _job(cloud, "attachVolume", id, lambda plug: cloud.model.attach(id, machine, device, plug))


def _detach(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id = cloud.model.volume(asked["id"]).id
    return _job(cloud, "detachVolume", id, lambda plug: cloud.model.detach(id, plug))


def _delete(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    cloud.model.delete(asked["id"])
    cloud.keep()
    return {"success": "true"}


def _resize(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id, size = asked["id"], _number(asked, "size")
    assert size is not None
    cloud.model.begin(id, "Resizing")
    cloud.keep()
    return _job(cloud, "resizeVolume", id, lambda plug: cloud.model.resize(id, size), lambda: cloud.model.end(id))


def _snapshot(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id = new_id()
    cloud.model.begin_snapshot(id, asked["volumeid"], asked.get("name", f"snapshot-{id}"))
    cloud.keep()
    take, fail = cloud.model.take_snapshot, cloud.model.fail_snapshot
    return _job(cloud, "createSnapshot", id, lambda plug: take(id), lambda: fail(id))


def _revert(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id = asked["id"]
    volume = cloud.model.find_snapshot(id).volume
    cloud.model.begin(volume, "RevertSnapshotting")
    cloud.keep()
    return _job(cloud, "revertSnapshot", id, lambda plug: cloud.model.revert(id), lambda: cloud.model.end(volume))


def _delete_snapshot(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    id = cloud.model.find_snapshot(asked["id"]).id
    return _job(cloud, "deleteSnapshot", id, lambda plug: cloud.model.delete_snapshot(id))


def _tag(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    keys = {key: value for key, value in asked.items() if key.startswith("tags[") and key.endswith("].key")}
    tags = {value: asked.get(key.replace("].key", "].value"), "") for key, value in keys.items()}
    return _job(cloud, "createTags", None, lambda plug: cloud.model.tag(asked["resourceids"].split(","), tags))


def _list(cloud: FakeCloud, asked: dict[str, str], name: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A page of them; CloudStack has no list in the answer when there is nothing.

    To ask for an id that it does not know is an error, other than to ask for a name.
    """
    size = _number(asked, "pagesize") or 500
    first = ((_number(asked, "page") or 1) - 1) * size
    page = found[first : first + size]
    return {"count": len(found), name: page} if page else {}


def _volumes(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    if "id" in asked:
        cloud.model.volume(asked["id"])
    return _list(cloud, asked, "volume", list(cloud.model.list_volumes(asked)))


def _machines(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    if "id" in asked:
        cloud.model.machine(asked["id"])
    found = [each.shown() for each in cloud.model.machines.values() if asked.get("id", each.id) == each.id]
    return _list(cloud, asked, "virtualmachine", found)


def _snapshots(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    if "id" in asked:
        cloud.model.find_snapshot(asked["id"])
    found = [
        each.shown()
        for each in cloud.model.snapshots.values()
        if asked.get("volumeid", each.volume) == each.volume
        and asked.get("id", each.id) == each.id
        and asked.get("name", each.name) == each.name
    ]
    return _list(cloud, asked, "snapshot", found)


def _zones(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    return _list(cloud, asked, "zone", [{"id": cloud.model.zone, "name": "zone1", "allocationstate": "Enabled"}])


def _offerings(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    return _list(cloud, asked, "diskoffering", [{"id": cloud.model.offering, "name": "Custom", "iscustomized": True}])


def _query(cloud: FakeCloud, asked: dict[str, str]) -> dict[str, Any]:
    return cloud.jobs.find(asked["jobid"]).shown()


def _number(asked: dict[str, str], name: str) -> int | None:
    try:
        return int(asked[name]) if name in asked else None
    except ValueError:
        raise Refusal(
            MALFORMED, f"Unable to execute API command due to invalid value {asked[name]} of {name}"
        ) from None


COMMANDS: dict[str, tuple[Callable[[FakeCloud, dict[str, str]], dict[str, Any]], tuple[str, ...]]] = {
    "createVolume": (_create, ("name", "size", "diskofferingid", "zoneid")),
    "attachVolume": (_attach, ("id", "virtualmachineid")),
    "detachVolume": (_detach, ("id",)),
    "deleteVolume": (_delete, ("id",)),
    "resizeVolume": (_resize, ("id", "size")),
    "createSnapshot": (_snapshot, ("volumeid",)),
    "revertSnapshot": (_revert, ("id",)),
    "deleteSnapshot": (_delete_snapshot, ("id",)),
    "createTags": (_tag, ("resourceids", "resourcetype")),
    "listVolumes": (_volumes, ()),
    "listVirtualMachines": (_machines, ()),
    "listSnapshots": (_snapshots, ()),
    "listZones": (_zones, ()),
    "listDiskOfferings": (_offerings, ()),
    "queryAsyncJobResult": (_query, ("jobid",)),
}
