"""The volume layer on a real record, real files and a real control socket; operations are waited for, not slept for."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from fake_serve import FakeServe
from omavol.copy.digests import PIECE, Digests
from omavol.copy.engine import Job, Options
from omavol.schema.volumes import (
    AttachVolume,
    CreateVolume,
    OpenSession,
    OperationType,
    ProofLevel,
    ProveSession,
    Session,
    Volume,
)
from omavol.volumes import orders
from omavol.volumes.house import House
from omavol.volumes.lifecycle import LIFECYCLE
from omavol.volumes.mend import Mender
from omavol.volumes.operations import Operations
from omavol.volumes.proof import PROOF, prove
from omavol.volumes.record import APPLIANCE, Record
from omavol.volumes.rows import OPERATIONS, UNFINISHED, OperationRow
from omavol.volumes.served import ControlSocket
from omavol.volumes.sessions import Sessions
from omavol.volumes.views import Views

SIZE = 3 * PIECE + 512


@dataclass
class World:
    """Everything of one daemon but HTTP. `crash` forgets all but the disk."""

    folder: Path
    serve: FakeServe
    _ended: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        (self.folder / "digests").mkdir(exist_ok=True)
        self.start()

    def start(self) -> None:
        self.record = Record(self.folder / "record.sqlite")
        self.house = House(self.folder, self.record, ControlSocket(self.serve.path))
        self.operations = Operations(self.house, {**LIFECYCLE, OperationType.PROVE: PROOF}, self._finished)
        self.sessions = Sessions(self.house)
        self.views = Views(self.house, self.sessions)
        self.mender = Mender(self.house, self.sessions)

    def close(self) -> None:
        assert self.operations.close(10)
        self.record.close()

    def restart(self) -> None:
        self.close()
        self.start()

    def _finished(self, operation_id: str) -> None:
        with self._ended:
            self._ended.notify_all()

    def wait(self, row: OperationRow) -> OperationRow:
        def state() -> OperationRow:
            with self.record.read() as db:
                return OPERATIONS.get(db, row.id)

        with self._ended:
            assert self._ended.wait_for(lambda: state().status not in UNFINISHED, timeout=20)
        return state()

    def create(self, name: str = "v", size: int = SIZE, **metadata: str) -> Volume:
        row = orders.create(self.operations, self.record, CreateVolume(name=name, size=size, metadata=metadata), None)
        self.wait(row)
        return self.views.volume(row.volume_id)

    def attach(self, volume_id: str) -> OperationRow:
        wanted = AttachVolume(vm_id=APPLIANCE)
        return self.wait(orders.attach(self.operations, self.record, volume_id, wanted, None))

    def attached(self, name: str = "v", size: int = SIZE) -> Volume:
        volume = self.create(name, size)
        assert self.attach(volume.volume_id).error is None
        return self.views.volume(volume.volume_id)

    def open(self, volume: Volume, job: str = "job", epoch: int = 1, **more: object) -> Session:
        return self.sessions.open(volume.volume_id, OpenSession(job=job, epoch=epoch, **more))

    def store_digests(self, session: Session, content: bytes) -> None:
        self.house.digests_of(session.session_id).write_bytes(digests_of(content).encode())

    def prove(self, session: Session, point: str = "p1", level: ProofLevel = ProofLevel.DIGEST) -> OperationRow:
        claim = ProveSession(point=point, incarnation=self.serve.incarnation, level=level)
        row = self.sessions.find(session.volume_id, session.session_id)
        return self.wait(prove(self.house, self.operations, row, claim, None))

    def copied(self, volume: Volume, point: str = "p1", epoch: int = 1, job: str = "job") -> Volume:
        """A whole pass: open, write, prove."""
        content = content_of(volume)
        session = self.open(volume, job, epoch)
        self.serve.write(session.export_name, 0, content)
        self.store_digests(session, content)
        done = self.prove(session, point)
        assert done.error is None, done.error
        return self.views.volume(volume.volume_id)


def content_of(volume: Volume) -> bytes:
    return (b"\x01some bytes\x02" * (volume.size // 12 + 1))[: volume.size]


def digests_of(content: bytes) -> Digests:
    """As a replication's copy loop takes them."""
    with tempfile.NamedTemporaryFile() as source:
        source.write(content)
        source.flush()
        digests = Job(source.name, "null:", Options(digests=True)).run().digests
    assert digests is not None
    return digests
