"""Looks at record, provider and served table, asks `reconcile` what to do, and does it: each mend a recorded operation.

Runs at start, when the control socket comes back, on a timer and on demand; a volume's mend holds its lock, and a
volume that someone else is changing is left for the next time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from omavol.cloud.volumes import CloudError
from omavol.schema.common import Problem, new_id, now
from omavol.schema.control import Listing
from omavol.schema.volumes import Finding, OperationStatus, OperationType, SessionState, Validation, VolumeStatus
from omavol.volumes.content import ChangedOutside, Held, content_after
from omavol.volumes.errors import ServerAway, VolumeError, problem_from
from omavol.volumes.house import House
from omavol.volumes.lifecycle import state_shown
from omavol.volumes.reconcile import Device, Facts, Found, Mend, Rule, Served, Writing, reconcile
from omavol.volumes.rows import (
    OPERATIONS,
    SESSIONS,
    VOLUMES,
    OperationRow,
    SessionRow,
    VolumeRow,
    issued_to,
    live_session,
    unfinished_operation,
)
from omavol.volumes.sessions import Sessions, apply_content, open_here

__all__ = ["Mender"]

log = logging.getLogger("omavol.volumes")
PASSES = 5  # a volume needs at most: settle, drop, end; more means that a mend does not do what it says
LOOKED_FOR = timedelta(days=1)
NO_NODE = frozenset({VolumeStatus.DETACHED, VolumeStatus.DELETED})
QUIET = frozenset({Mend.NONE})
SPOKEN = frozenset({Mend.WAIT, Mend.REPORT})


class Mender:
    """`run` may be called from any thread; one run at a time, a second waits for the first."""

    def __init__(self, house: House, sessions: Sessions) -> None:
        self._house = house
        self._sessions = sessions
        self._one = threading.Lock()
        self._said: set[tuple[str, str]] = set()
        self._serving: set[str] | None = None  # volumes with exports at the start of the run; None: server away
        self._effects: Mapping[Mend, Callable[[VolumeRow, SessionRow | None, Rule], None]] = {
            Mend.SETTLE: self._settle,
            Mend.OUTSIDE: self._outside,
            Mend.LOSE: self._lose,
            Mend.NAME: self._name,
            Mend.DROP_STRAY: self._drop_stray,
            Mend.OFFER: self._offer,
            Mend.READD: self._re_add,
            Mend.DOOM: self._doom,
            Mend.END: self._end,
        }

    def run(self) -> Validation:
        """Compare everything, mend what can be mended, and say what was found."""
        with self._one:
            findings = self._look_at_server()
            with self._house.record.read() as db:
                volumes = VOLUMES.where(db, "status <> 'deleted' OR updated_at > ? ORDER BY rowid", (_recently(),))
            for volume in volumes:
                findings += self._mend_volume(volume.volume_id)
            self._sweep_nodes()
            self._sweep_digests()
        self._say(findings)
        mended = sum(finding.mended for finding in findings)
        text = f"{len(volumes)} volumes compared, {len(findings)} differences, {mended} mended"
        return Validation(message=text, findings=findings)

    def _say(self, findings: list[Finding]) -> None:
        """Log what was not there at the last run: a timer must not repeat itself."""
        found = {(finding.detail, finding.mend) for finding in findings}
        for detail, mend in sorted(found - self._said):
            log.warning("reconcile: %s (%s)", detail, mend)
        self._said = found

    def _mend_volume(self, volume_id: str) -> list[Finding]:
        findings: list[Finding] = []
        with self._house.locks.hold(volume_id, wait=False) as held:
            for _ in range(PASSES if held else 0):
                volume, session, facts = self._look(volume_id)
                rule = reconcile(facts)
                if rule.mend in QUIET:
                    break
                detail = f"volume {volume.persistent_name} ({volume_id}): {rule.reason}"
                finding = Finding(volume_id=volume_id, code=rule.code, detail=detail, mend=rule.mend, mended=False)
                findings.append(finding)
                if rule.mend in SPOKEN or any(rule.code == earlier.code for earlier in findings[:-1]):
                    break  # the same again: the mend did not do what it says
                finding.operation_id, finding.mended = self._do(volume, session, rule)
                if not finding.mended:
                    break
        return findings

    def _look(self, volume_id: str) -> tuple[VolumeRow, SessionRow | None, Facts]:
        with self._house.record.read() as db:
            volume = VOLUMES.get(db, volume_id)
            session = live_session(db, volume_id)
            busy = unfinished_operation(db, volume_id) is not None
        concerned = session is not None or volume_id in (self._serving or ())
        listing = self._listing() if concerned and self._serving is not None else None
        served = self._served_of(volume_id, listing) if listing else set()
        found, device = (Found.UNTOLD, Device.SOUND) if busy else self._found(volume)
        return (
            volume,
            session,
            Facts(
                busy=busy,
                status=volume.status,
                found=found,
                device=device,
                writing=_writing(session),
                served=_served(session, listing),
                stray=bool(served - ({session.export_name} if session else set())),
            ),
        )

    def _found(self, volume: VolumeRow) -> tuple[Found, Device]:
        try:
            there = self._house.provider().describe(volume.volume_id)
            if there is None:
                return Found.MISSING, Device.SOUND
            if there.capacity < volume.size:
                return Found.SHORT, Device.SOUND
            if there.attached_to is None:
                return Found.DETACHED, Device.SOUND
            if volume.vm_id not in (None, there.attached_to):
                return Found.ELSEWHERE, Device.SOUND
            return Found.ATTACHED, self._house.devices.look(volume, there) if self._house.here(there) else Device.SOUND
        except (CloudError, VolumeError) as error:
            log.warning("volume %s: %s", volume.volume_id, error)
            return Found.UNTOLD, Device.SOUND

    def _listing(self) -> Listing | None:
        try:
            return self._house.served.listing()
        except VolumeError:
            return None

    def _served_of(self, volume_id: str, listing: Listing) -> set[str]:
        """What is served of the exports that were ever issued for the volume."""
        with self._house.record.read() as db:
            issued = issued_to(db, [export.name for export in listing.exports])
        return {name for name, owner in issued.items() if owner == volume_id}

    def _look_at_server(self) -> list[Finding]:
        """Which volumes it serves. Exports that this record never issued are somebody's: named, never touched."""
        try:
            for name in self._house.served.release():
                log.warning("reconcile: requests of export %s were held and are let go", name)
            names = [export.name for export in self._house.served.listing().exports]
        except ServerAway as error:
            self._serving = None
            return [Finding(volume_id=None, code=error.code, detail=error.detail, mend=Mend.WAIT, mended=False)]
        with self._house.record.read() as db:
            issued = issued_to(db, names)
        self._serving = set(issued.values())
        return [
            Finding(
                volume_id=None,
                code="foreign_export",
                detail=f"omavol serve has export {name!r}, which no session of this record opened",
                mend=Mend.REPORT,
                mended=False,
            )
            for name in names
            if name not in issued
        ]

    # --- the mends ---

    def _do(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> tuple[str, bool]:
        """Do it as a recorded operation: its id, and whether it is done."""
        request = {"mend": str(rule.mend), "code": rule.code, "reason": rule.reason}
        with self._house.record.write() as db:
            operation_id = _row(db, volume.volume_id, request)
        problem: Problem | None = None
        try:
            self._effects[rule.mend](volume, session, rule)
        except (VolumeError, CloudError) as error:
            problem = problem_from(error)
        except OSError as error:
            problem = Problem(status=500, code="io_failed", title="Input or output failed", detail=str(error))
        status = OperationStatus.FAILED if problem else OperationStatus.COMPLETED
        with self._house.record.write() as db:
            response = None if problem else {"volume_id": volume.volume_id, "message": f"{rule.mend}: {rule.reason}"}
            OPERATIONS.update(db, operation_id, status=status, error=problem, response=response, completed_at=now())
        return operation_id, problem is None

    def _settle(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        there = self._house.provider().describe(volume.volume_id)
        shown = state_shown(self._house, there, volume, gone=VolumeStatus.ERROR)
        with self._house.record.write() as db:
            VOLUMES.update(db, volume.volume_id, **shown)

    def _outside(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        if session is not None:
            self._sessions.end_now(session, f"the volume was lost or moved: {rule.reason}")
        there = self._house.provider().describe(volume.volume_id)
        shown = state_shown(self._house, there, volume, gone=VolumeStatus.ERROR)
        with self._house.record.write() as db:
            row = VOLUMES.get(db, volume.volume_id)
            held = content_after(Held(row.content, row.generation), ChangedOutside(rule.reason))
            apply_content(db, volume.volume_id, held)
            VOLUMES.update(db, volume.volume_id, **shown)

    def _lose(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        self._house.devices.lose(volume)
        self._outside(volume, session, rule)

    def _name(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        """Its requests wait while the device is changed beneath; without nodes the export goes to the new device."""
        house, there = self._house, self._house.provider().describe(volume.volume_id)
        if there is None:
            raise VolumeError(409, "volume_missing", f"volume {volume.volume_id} is gone")
        served = session is not None and self._listing() is not None and volume.device_path is not None
        held = None
        if served and house.devices.named:
            assert session is not None and volume.device_path is not None
            held = house.served.held(session.export_name, Path(volume.device_path), volume.size)
        path = str(house.devices.appear(volume, there, 0, held))
        if served and path != volume.device_path:
            assert session is not None
            descriptor = open_here(path)
            try:
                house.served.retarget(session.export_name, volume.size, descriptor, same_content=False)
            finally:
                os.close(descriptor)
        with house.record.write() as db:
            VOLUMES.update(db, volume.volume_id, device_path=path)

    def _drop_stray(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        kept = {session.export_name} if session else set()
        for name in self._served_of(volume.volume_id, self._house.served.listing()) - kept:
            self._house.served.remove(name)

    def _offer(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        assert session is not None
        self._sessions.offer_again(session, volume)

    def _re_add(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        assert session is not None
        with self._house.record.write() as db:
            SESSIONS.update(db, session.session_id, counters_lost=True)
        self._sessions.serve(session, volume)

    def _doom(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        assert session is not None
        with self._house.record.write() as db:
            SESSIONS.update(db, session.session_id, unprovable_because=f"writes may be lost: {rule.reason}")

    def _end(self, volume: VolumeRow, session: SessionRow | None, rule: Rule) -> None:
        assert session is not None
        self._sessions.end_now(session, rule.reason)

    def _sweep_nodes(self) -> None:
        """Take away the nodes of volumes that are not attached here any more; an open one fails its users first."""
        with contextlib.suppress(VolumeError):  # device-mapper does not answer: the next run asks again
            for volume_id in self._house.devices.standing():
                with self._house.locks.hold(volume_id, wait=False) as held:
                    if held:
                        self._sweep_node(volume_id)

    def _sweep_node(self, volume_id: str) -> None:
        with self._house.record.read() as db:
            volume = VOLUMES.find(db, volume_id)
            busy = unfinished_operation(db, volume_id) is not None
        if volume is None or busy or volume.status not in NO_NODE:
            return
        try:
            self._house.devices.part(volume)
        except VolumeError as error:
            log.warning("volume %s: %s", volume_id, error.detail)
            self._house.devices.lose(volume)

    def _sweep_digests(self) -> None:
        """Remove what was stored for sessions that are over: a crash fell between their end and the removal."""
        folder = self._house.state / "digests"
        with self._house.record.read() as db:
            live = {row.session_id for row in SESSIONS.where(db, "state IN ('open', 'proving')")}
        with contextlib.suppress(OSError):
            for file in folder.iterdir():
                if file.name.partition(".")[0] not in live:
                    file.unlink()


def _recently() -> str:
    """A volume deleted since then is still looked for: the provider may show what it was to destroy."""
    return (now() - LOOKED_FOR).isoformat(timespec="microseconds")


def _row(db: sqlite3.Connection, volume_id: str, request: dict[str, str]) -> str:
    """A row for the mend; one that failed last time, or that a crash left, is used again: a timer must not fill it."""
    last = OPERATIONS.where(db, "volume_id = ? AND type = 'mend' ORDER BY rowid DESC LIMIT 1", (volume_id,))
    if last and last[0].status is not OperationStatus.COMPLETED and last[0].request == request:
        OPERATIONS.update(db, last[0].id, status=OperationStatus.EXECUTING, error=None, completed_at=None)
        return last[0].id
    if last and last[0].status is OperationStatus.EXECUTING:
        OPERATIONS.update(db, last[0].id, status=OperationStatus.CANCELLED, completed_at=now())
    at = now()
    row = OperationRow(
        id=new_id(),
        type=OperationType.MEND,
        status=OperationStatus.EXECUTING,
        volume_id=volume_id,
        request=request,
        created_at=at,
        updated_at=at,
    )
    return OPERATIONS.insert(db, row).id


def _writing(session: SessionRow | None) -> Writing:
    if session is None:
        return Writing.NONE
    if session.state is SessionState.PROVING:
        return Writing.PROVING
    if session.unprovable_because:
        return Writing.DOOMED
    return Writing.UNOFFERED if session.incarnation is None else Writing.OPEN


def _served(session: SessionRow | None, listing: Listing | None) -> Served:
    if listing is None:
        return Served.AWAY
    if session is None or session.incarnation != listing.incarnation:
        return Served.OTHER
    here = any(export.name == session.export_name for export in listing.exports)
    return Served.SERVED if here else Served.GONE
