"""A volume daemon and an agent in small: they speak the two APIs and keep their rules; tests turn what happens."""

from __future__ import annotations

import asyncio
import itertools

import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from omavol.schema.common import Problem, new_id, now
from omavol.schema.source import (
    AgentVersion,
    Discovered,
    DiskProgress,
    DiskProof,
    Progress,
    Replicate,
    Replicating,
    Replications,
    SourceStatus,
    Throughput,
    Timing,
    VmInfo,
)
from omavol.schema.volumes import (
    AtPoint,
    CreateVolume,
    Health,
    OpenSession,
    Operation,
    OperationStatus,
    OperationType,
    ProveSession,
    Provider,
    Session,
    SessionState,
    Torn,
    UnknownContent,
    Volume,
    VolumeStatus,
)

V1 = "/api/v1"
replace = msgspec.structs.replace


class Refused(Exception):
    def __init__(self, status, code, detail="refused", job_id=None):
        super().__init__(code)
        self.problem = Problem(status=status, code=code, title="Refused", detail=detail, job_id=job_id)


async def _refuse(request, error):
    return answer(error.problem.for_the_wire(), error.problem.status, "application/problem+json")


def answer(content, status=200, kind="application/json"):
    return Response(msgspec.json.encode(content), status, media_type=kind)


def application(routes):
    return Starlette(routes=routes, exception_handlers={Refused: _refuse})


class FakeVolumes:
    """`refuse[what] = (status, code)` makes an operation fail; `digests` is what each session was given."""

    def __init__(self):
        self.volumes: dict[str, Volume] = {}
        self.sessions: dict[str, Session] = {}
        self.operations: dict[str, Operation] = {}
        self.keys: dict[str, str] = {}
        self.digests: dict[str, bytes] = {}
        self.refuse_once: dict[str, tuple[int, str]] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.asked: list[str] = []
        volume, session = f"{V1}/volumes/{{volume}}", f"{V1}/volumes/{{volume}}/sessions/{{session}}"
        self.app = application(
            [
                Route(f"{V1}/health", self.health),
                Route(f"{V1}/provider", self.provider),
                Route(f"{V1}/volumes", self.create, methods=["POST"]),
                Route(volume, self.get),
                Route(f"{volume}/attach", self.attach, methods=["POST"]),
                Route(f"{volume}/sessions", self.open, methods=["POST"]),
                Route(session, self.session, methods=["GET", "DELETE"]),
                Route(f"{session}/digests", self.put_digests, methods=["PUT"]),
                Route(f"{session}/prove", self.prove, methods=["POST"]),
                Route(f"{V1}/operations/{{operation}}", self.operation),
            ]
        )

    def _enter(self, what):
        self.asked.append(what)
        if what in self.refuse_once:
            raise Refused(*self.refuse_once.pop(what))
        if what in self.refuse:
            raise Refused(*self.refuse[what])

    def _volume(self, request):
        if request.path_params["volume"] not in self.volumes:
            raise Refused(404, "unknown_volume")
        return self.volumes[request.path_params["volume"]]

    def _put(self, volume, **changes):
        self.volumes[volume.volume_id] = replace(volume, **changes)

    def _done(self, request, kind, volume_id, act):
        """Run an operation under its key: the same key answers the same operation."""
        key = request.headers["idempotency-key"]
        if key not in self.keys:
            error = None
            try:
                act()
            except Refused as refused:
                error = refused.problem
            operation = Operation(
                id=new_id(),
                type=kind,
                status=OperationStatus.FAILED if error else OperationStatus.COMPLETED,
                volume_id=volume_id,
                request={},
                error=error,
                created_at=now(),
                updated_at=now(),
            )
            self.operations[operation.id] = operation
            self.keys[key] = operation.id
        return answer(self.operations[self.keys[key]], 201)

    async def health(self, request):
        return answer(Health(status="healthy", timestamp=now(), service="fake", version="0"))

    async def provider(self, request):
        return answer(Provider(kind="local", appliance_vm_id="this-appliance"))

    async def operation(self, request):
        return answer(self.operations[request.path_params["operation"]])

    async def get(self, request):
        return answer(self._volume(request))

    async def create(self, request):
        self._enter("create")
        wanted = msgspec.json.decode(await request.body(), type=CreateVolume)
        known = self.keys.get(request.headers["idempotency-key"])
        volume_id = self.operations[known].volume_id if known else new_id()

        def act():
            self.volumes[volume_id] = Volume(
                volume_id=volume_id,
                name=wanted.name,
                persistent_name=wanted.name,
                size=wanted.size,
                capacity=wanted.size,
                status=VolumeStatus.DETACHED,
                content=UnknownContent(),
                generation=1,
                created_at=now(),
                updated_at=now(),
            )

        return self._done(request, OperationType.CREATE, volume_id, act)

    async def attach(self, request):
        self._enter("attach")
        volume = self._volume(request)

        def act():
            self._put(volume, status=VolumeStatus.ATTACHED, vm_id="this-appliance")

        return self._done(request, OperationType.ATTACH, volume.volume_id, act)

    async def open(self, request):
        self._enter("open")
        volume = self._volume(request)
        wanted = msgspec.json.decode(await request.body(), type=OpenSession)
        for session in self._live(volume.volume_id):
            if wanted.epoch < session.epoch:
                raise Refused(409, "stale_epoch")
            if (wanted.epoch, wanted.job) == (session.epoch, session.job):
                return answer(session)
            self._end(session, "a newer epoch")
        volume = self._volume(request)
        held = getattr(volume.content, "point", None) or getattr(volume.content, "base", None)
        incremental = wanted.base is not None and (wanted.base.generation, wanted.base.point) == (
            volume.generation,
            held,
        )
        session = Session(
            session_id=new_id(),
            volume_id=volume.volume_id,
            job=wanted.job,
            epoch=wanted.epoch,
            kind=wanted.kind,
            state=SessionState.OPEN,
            mode="incremental" if incremental else "full",
            reason="from the base" if incremental else "no base",
            base=wanted.base,
            generation=volume.generation,
            size=volume.size,
            export_name=new_id(),
            uri="nbd+unix:///x?socket=/tmp/x",
            opened_at=now(),
        )
        self.sessions[session.session_id] = session
        torn = Torn(since_session=session.session_id, job=wanted.job, base=held if incremental else None)
        self._put(volume, content=torn)
        return answer(session, 201)

    def _live(self, volume_id):
        live = (SessionState.OPEN, SessionState.PROVING)
        return [each for each in self.sessions.values() if each.volume_id == volume_id and each.state in live]

    def _end(self, session, because):
        self.sessions[session.session_id] = replace(
            session, state=SessionState.ENDED, ended_because=because, ended_at=now()
        )

    async def session(self, request):
        session = self.sessions[request.path_params["session"]]
        if request.method == "DELETE" and session.state is SessionState.OPEN:
            self._end(session, "its owner ended it")
        return answer(self.sessions[session.session_id])

    async def put_digests(self, request):
        session = self.sessions[request.path_params["session"]]
        if session.state is not SessionState.OPEN:
            raise Refused(409, "session_ended")
        self.digests[session.session_id] = await request.body()
        return Response(status_code=204)

    async def prove(self, request):
        session = self.sessions[request.path_params["session"]]
        claim = msgspec.json.decode(await request.body(), type=ProveSession)
        volume = self._volume(request)

        def act():
            self._enter("prove")
            self.sessions[session.session_id] = replace(session, state=SessionState.PROVED)
            self._put(volume, content=AtPoint(point=claim.point, proof=claim.level))

        return self._done(request, OperationType.PROVE, volume.volume_id, act)


class FakeAgent:
    """Copies in no time when `autopilot`; otherwise a test says `advance`. `silent` makes it answer nothing useful."""

    def __init__(self, machines, token="agent-token", autopilot=True):
        self.machines = machines
        self.token = token
        self.autopilot = autopilot
        self.agent_id = new_id()
        self.jobs: dict[str, Progress] = {}
        self.requests: dict[str, Replicate] = {}
        self.decided: dict[str, str] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.changed = asyncio.Event()
        self.sequence = itertools.count(1)
        self.points = itertools.count(1)
        job = f"{V1}/replications/{{job}}"
        self.app = application(
            [
                Route(f"{V1}/version", self.version),
                Route(f"{V1}/discover", self.discover, methods=["POST"]),
                Route(f"{V1}/replicate", self.replicate, methods=["POST"]),
                Route(f"{V1}/replications", self.listing),
                Route(job, self.cancel, methods=["DELETE"]),
                Route(f"{job}/commit", self.decide, methods=["POST"], name="commit"),
                Route(f"{job}/abandon", self.decide, methods=["POST"], name="abandon"),
                Route(f"{job}/disks/{{disk}}/digests", self.digests),
            ]
        )

    def _enter(self, request, what):
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "not_authorised")
        if what in self.refuse:
            raise Refused(*self.refuse[what])

    async def version(self, request):
        self._enter(request, "version")
        return answer(AgentVersion(agent_id=self.agent_id, version="0", features=[]))

    async def discover(self, request):
        self._enter(request, "discover")
        return answer(Discovered(vcenter={"host": "lab-host", "datacenter": ""}, vms=self.machines))

    async def replicate(self, request):
        self._enter(request, "replicate")
        wanted = msgspec.json.decode(await request.body(), type=Replicate)
        if wanted.job_id not in self.jobs:
            self.requests[wanted.job_id] = wanted
            self.advance(wanted.job_id, SourceStatus.RUNNING)
            if self.autopilot:
                self.advance(wanted.job_id, SourceStatus.COMPLETED)
        at = now()
        return answer(Replicating(job_id=wanted.job_id, status="running", vm_count=1, started_at=at))

    def advance(self, job_id, status, *, percent=50.0, error=None, code=None, points=None):
        """The job is at `status` from now on; completed disks claim one new point, or those given."""
        done = status is SourceStatus.COMPLETED
        point = f"point-{next(self.points)}" if done else None
        targets = self.requests[job_id].nbd_targets
        disks = [
            DiskProgress(
                disk_id=target.vmware_disk_key,
                label=target.vmware_disk_key,
                mode="incremental" if target.base_point else "full",
                reason="",
                status=status,
                bytes_transferred=1000 if done else 500,
                total_bytes=1000,
                percent=100.0 if done else percent,
                throughput_mbps=1.0,
                capacity_bytes=64 << 20,
                bytes_read=1000,
                bytes_sent=900,
                bytes_zero=100,
                proof=DiskProof(
                    point=(points or {}).get(target.vmware_disk_key, point),
                    base_point=target.base_point,
                    incarnation="server-1",
                    pieces=1,
                )
                if done
                else None,
            )
            for target in targets
        ]
        at = now()
        self.jobs[job_id] = Progress(
            job_id=job_id,
            status=status,
            sync_type="incremental" if targets[0].base_point else "full",
            phase="Transfer",
            percentage=100.0 if done else percent,
            current_operation="copying",
            bytes_transferred=2000 if done else 1000,
            total_bytes=2000,
            throughput=Throughput(current_mbps=2.0, average_mbps=2.0, peak_mbps=2.0, last_update=at),
            timing=Timing(start_time=at, last_update=at, elapsed_ms=1, eta_seconds=1),
            vm_info=VmInfo(name="web01", path="/lab/web01", disk_size_bytes=128 << 20, cbt_enabled=True),
            disk_progresses=disks,
            last_error=error,
            error_code=code,
            sequence=next(self.sequence),
        )
        self.changed.set()

    async def listing(self, request):
        self._enter(request, "listing")
        since = int(request.query_params.get("since", 0))
        told = [job for job in self.jobs.values() if job.sequence > since]
        cursor = max((job.sequence for job in self.jobs.values()), default=0)
        return answer(Replications(replications=told, cursor=cursor, agent_id=self.agent_id))

    async def cancel(self, request):
        self._enter(request, "cancel")
        job_id = request.path_params["job"]
        if job_id not in self.jobs:
            raise Refused(404, "job_unknown")
        if self.jobs[job_id].status in (SourceStatus.RUNNING, SourceStatus.PREPARING):
            self.advance(job_id, SourceStatus.CANCELLED)
        return Response(status_code=204)

    async def decide(self, request):
        what = request.url.path.rpartition("/")[2]
        self._enter(request, what)
        job_id = request.path_params["job"]
        if job_id not in self.jobs:
            raise Refused(404, "job_unknown")
        self.decided[job_id] = what
        return Response(status_code=204)

    async def digests(self, request):
        self._enter(request, "digests")
        job, disk = request.path_params["job"], request.path_params["disk"]
        return Response(f"digests of {job} {disk}".encode(), media_type="application/octet-stream")
