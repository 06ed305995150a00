"""Write sessions: the right to write to one volume, through one export name that nobody can guess.

Opening records "torn" before the export exists (ARCHITECTURE.md rule 7); ending removes the export first and gives the
former content back only when the server that took no writes says so itself.
"""

from __future__ import annotations

import logging
import os
import secrets
import sqlite3
import stat

from omavol import failpoint
from omavol.schema.common import new_id, now
from omavol.schema.control import Done, Listing
from omavol.schema.volumes import OpenSession, Session, SessionState, VolumeStatus
from omavol.volumes.content import EndedUnproved, Held, Opened, choose_mode, content_after
from omavol.volumes.errors import ServerAway, VolumeError
from omavol.volumes.fence import Fence, FenceFacts, Rule, decide
from omavol.volumes.house import House
from omavol.volumes.operations import refuse_if_busy
from omavol.volumes.rows import (
    EXPORTS,
    SESSIONS,
    VOLUMES,
    ExportRow,
    Former,
    SessionRow,
    VolumeRow,
    existing,
    had_session,
    latest_session,
)
from omavol.volumes.served import uris_of

__all__ = ["Sessions", "apply_content", "close_unproved", "open_device", "open_here", "wrote_nothing"]

log = logging.getLogger("omavol.volumes")
MOST_SHOWN = 100


class Sessions:
    """Open, look at and end sessions. Any thread may call; what changes a volume is done under its lock."""

    def __init__(self, house: House) -> None:
        self._house = house

    def open(self, volume_id: str, wanted: OpenSession) -> Session:
        """The session of this job and epoch: the one that is, or a new one; see `fence` for who is refused."""
        house = self._house
        with house.record.read() as db:
            volume, latest, rule = _judge(db, volume_id, wanted)
            if rule.decision is not Fence.SAME:
                refuse_if_busy(db, volume_id)
        with house.locks.hold(volume_id):
            with house.record.read() as db:
                volume, latest, rule = _judge(db, volume_id, wanted)
            if rule.decision is Fence.SAME:
                assert latest is not None
                if latest.state is SessionState.OPEN and latest.incarnation is None:
                    latest = self.offer_again(latest, volume)
                return self.shown(latest, self._listing())
            with house.record.read() as db:
                refuse_if_busy(db, volume_id)
            listing = house.served.listing()  # nothing is recorded when the server is away
            if rule.decision is Fence.TAKE_OVER:
                assert latest is not None
                self.end_now(latest, f"job {wanted.job} opened the volume with epoch {wanted.epoch}")
            return self.shown(self._open(volume_id, wanted), listing)

    def end(self, volume_id: str, session_id: str) -> Session:
        """End it without proof; an ended one is answered as it is. Refused while it is being proved."""
        house = self._house
        with house.record.read() as db:
            session = self._find(db, volume_id, session_id)
            if session.state is SessionState.PROVING:
                refuse_if_busy(db, volume_id)
        with house.locks.hold(volume_id):
            with house.record.read() as db:
                session = self._find(db, volume_id, session_id)
            if session.state is SessionState.OPEN:
                session = self.end_now(session, "its owner ended it")
        return self.shown(session)

    def get(self, volume_id: str, session_id: str) -> Session:
        """With the server's live counters when it answers."""
        with self._house.record.read() as db:
            session = self._find(db, volume_id, session_id)
        return self.shown(session, self._listing() if session.state is SessionState.OPEN else None)

    def all(self, volume_id: str) -> list[Session]:
        """The newest MOST_SHOWN sessions of the volume, the newest first."""
        with self._house.record.read() as db:
            existing(db, volume_id)
            rows = SESSIONS.where(db, "volume_id = ? ORDER BY rowid DESC LIMIT ?", (volume_id, MOST_SHOWN))
        listing = self._listing() if any(row.state is SessionState.OPEN for row in rows) else None
        return [self.shown(row, listing) for row in rows]

    def find(self, volume_id: str, session_id: str) -> SessionRow:
        with self._house.record.read() as db:
            return self._find(db, volume_id, session_id)

    def may_take_digests(self, volume_id: str, session_id: str) -> SessionRow:
        """The open session whose digests may be stored, or the error."""
        with self._house.record.read() as db:
            session = self._find(db, volume_id, session_id)
        if session.state is not SessionState.OPEN:
            raise VolumeError(409, f"session_{session.state}", f"session {session_id} is {session.state}")
        return session

    def _find(self, db: sqlite3.Connection, volume_id: str, session_id: str) -> SessionRow:
        existing(db, volume_id)
        session = SESSIONS.find(db, session_id)
        if session is None or session.volume_id != volume_id:
            raise VolumeError(404, "unknown_session", f"volume {volume_id} has no session {session_id!r}")
        return session

    def _open(self, volume_id: str, wanted: OpenSession) -> SessionRow:
        house = self._house
        at = now()
        with house.record.write() as db:
            refuse_if_busy(db, volume_id)  # in the same transaction: an operation begins with a row, not with the lock
            volume = VOLUMES.get(db, volume_id)
            held = Held(volume.content, volume.generation)
            mode = choose_mode(held, wanted.base)
            session = SessionRow(
                session_id=new_id(),
                volume_id=volume_id,
                job=wanted.job,
                epoch=wanted.epoch,
                kind=wanted.kind,
                state=SessionState.OPEN,
                mode=mode.name,
                reason=mode.reason,
                base=wanted.base if mode.incremental else None,
                generation=volume.generation,
                former=Former(content=held.content, generation=held.generation),
                export_name=secrets.token_hex(16),
                opened_at=at,
            )
            SESSIONS.insert(db, session)
            EXPORTS.insert(
                db,
                ExportRow(
                    id=new_id(),
                    volume_id=volume_id,
                    session_id=session.session_id,
                    export_name=session.export_name,
                    status="pending",
                    created_at=at,
                    updated_at=at,
                ),
            )
            apply_content(db, volume_id, content_after(held, Opened(session.session_id, wanted.job, mode)))
            VOLUMES.update(db, volume_id, epoch=wanted.epoch)
        failpoint.reach("daemon.session-recorded")
        try:
            return self.serve(session, volume)
        except (VolumeError, OSError) as error:
            self.end_now(session, f"its export could not be served: {error}")
            if isinstance(error, OSError):
                raise VolumeError(500, "device_unusable", f"{volume.device_path}: {error.strerror}") from error
            raise

    def serve(self, session: SessionRow, volume: VolumeRow) -> SessionRow:
        """Hand the device to the server under the session's name, and record that it has it. The lock is held."""
        descriptor = open_device(volume)
        try:
            done = self._house.served.add(session.export_name, volume.size, descriptor, volume.persistent_name)
        finally:
            os.close(descriptor)
        failpoint.reach("daemon.export-added")
        with self._house.record.write() as db:
            SESSIONS.update(db, session.session_id, incarnation=done.incarnation)
            EXPORTS.update(db, session.export_name, status="active")
            return SESSIONS.get(db, session.session_id)

    def offer_again(self, session: SessionRow, volume: VolumeRow) -> SessionRow:
        """Serve a session whose export was never answered to anybody: a crash fell in between. The lock is held."""
        self._house.served.remove(session.export_name)
        return self.serve(session, volume)

    def end_now(self, session: SessionRow, because: str) -> SessionRow:
        """Take the export away, then record the end and what the volume holds by it. The lock is held.

        A server that is away keeps nobody from ending: what it took stays unknown, so the volume stays torn.
        """
        house = self._house
        try:
            done = house.served.remove(session.export_name)
        except ServerAway as error:
            log.warning("session %s ends while the server is away: %s", session.session_id, error)
            done = None
        with house.record.write() as db:
            ended = close_unproved(db, session, because, wrote_nothing=wrote_nothing(session, done), done=done)
        house.forget_digests(session.session_id)
        return ended

    def _listing(self) -> Listing | None:
        try:
            return self._house.served.listing()
        except VolumeError:
            return None

    def shown(self, row: SessionRow, listing: Listing | None = None) -> Session:
        """As the API shows it; with the server's answer, its live counters and addresses."""
        counters = {export.name: export for export in listing.exports} if listing else {}
        served = counters.get(row.export_name)
        uris = uris_of(listing.listeners, row.export_name) if listing and row.state is SessionState.OPEN else []
        return Session(
            session_id=row.session_id,
            volume_id=row.volume_id,
            job=row.job,
            epoch=row.epoch,
            kind=row.kind,
            state=row.state,
            mode=row.mode,
            reason=row.reason,
            base=row.base,
            generation=row.generation,
            size=self._size(row.volume_id),
            export_name=row.export_name,
            uri=uris[0] if uris else None,
            uris=uris,
            bytes_written=row.bytes_written + (served.bytes_written if served else 0),
            opened_at=row.opened_at,
            ended_at=row.ended_at,
            ended_because=row.ended_because,
            unprovable_because=row.unprovable_because,
        )

    def _size(self, volume_id: str) -> int:
        with self._house.record.read() as db:
            return VOLUMES.get(db, volume_id).size


def _judge(db: sqlite3.Connection, volume_id: str, wanted: OpenSession) -> tuple[VolumeRow, SessionRow | None, Rule]:
    """What the fence says, or the refusal as an error."""
    volume = existing(db, volume_id)
    latest = latest_session(db, volume_id)
    rule = decide(
        FenceFacts(
            epoch=wanted.epoch,
            highest=volume.epoch,
            latest=latest.state if latest else None,
            same_job=latest is not None and latest.job == wanted.job,
            job_seen=had_session(db, volume_id, wanted.job),
        )
    )
    if rule.decision in _REFUSALS:
        assert latest is not None
        code, advice = _REFUSALS[rule.decision]
        raise VolumeError(
            409,
            code,
            f"volume {volume_id}: {rule.reason}: job {latest.job} with epoch {volume.epoch}"
            f" (session {latest.session_id}, {latest.state}); asked by job {wanted.job} with epoch {wanted.epoch}",
            advice,
        )
    if rule.decision is not Fence.SAME and volume.status is not VolumeStatus.ATTACHED:
        raise VolumeError(
            409, "not_attached", f"volume {volume_id} is {volume.status}: it cannot be written", "Attach it first."
        )
    return volume, latest, rule


_REFUSALS = {
    Fence.REFUSE_STALE: ("stale_epoch", "Stop: this writer was replaced. A new one needs a higher epoch."),
    Fence.REFUSE_HELD: ("session_held", "Wait for that job, or take over with a higher epoch."),
    Fence.REFUSE_PROVING: ("session_proving", "Wait for its prove operation to end."),
}


def open_device(volume: VolumeRow) -> int:
    """A descriptor of the volume's device, for reading and writing; an error when it is not large enough."""
    if volume.device_path is None:
        raise VolumeError(409, "not_attached", f"volume {volume.volume_id} has no device here", "Attach it first.")
    descriptor = open_here(volume.device_path)
    mode, size = os.fstat(descriptor).st_mode, os.lseek(descriptor, 0, os.SEEK_END)
    if (stat.S_ISREG(mode) or stat.S_ISBLK(mode)) and size >= volume.size:
        return descriptor
    os.close(descriptor)
    raise VolumeError(502, "device_wrong", f"{volume.device_path} has {size} bytes, not {volume.size} or more")


def open_here(path: str) -> int:
    """Open a volume's file or device for reading and writing; a link is followed under /dev alone: udev makes those."""
    follow = 0 if path.startswith("/dev/") else os.O_NOFOLLOW
    return os.open(path, os.O_RDWR | os.O_CLOEXEC | follow)


def wrote_nothing(session: SessionRow, done: Done | None) -> bool:
    """Known, not assumed: the export was never offered, or the server that had it all the time took no change."""
    if session.incarnation is None:
        return True
    if done is None or session.counters_lost or session.bytes_written:
        return False
    return done.incarnation == session.incarnation and done.export.changes == 0


def close_unproved(
    db: sqlite3.Connection,
    session: SessionRow,
    because: str,
    *,
    wrote_nothing: bool,
    done: Done | None = None,
) -> SessionRow:
    """The rows of an end without proof: the session, its export, the volume's content."""
    volume = VOLUMES.get(db, session.volume_id)
    former = Held(session.former.content, session.former.generation)
    held = content_after(
        Held(volume.content, volume.generation), EndedUnproved(session.session_id, former, wrote_nothing)
    )
    apply_content(db, session.volume_id, held)
    EXPORTS.delete(db, session.export_name)
    written = session.bytes_written + (done.export.bytes_written if done and not session.removed else 0)
    SESSIONS.update(
        db,
        session.session_id,
        state=SessionState.ENDED,
        ended_at=now(),
        ended_because=because,
        bytes_written=written,
    )
    return SESSIONS.get(db, session.session_id)


def apply_content(db: sqlite3.Connection, volume_id: str, held: Held) -> None:
    VOLUMES.update(db, volume_id, content=held.content, generation=held.generation)
