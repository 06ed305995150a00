"""What to mend: the table over the whole product of its facts, its cases, and the mender on real files and sockets."""

from __future__ import annotations

import itertools
import threading

import pytest

from omavol.schema.control import Refused
from omavol.schema.volumes import OperationType, SessionState, Torn, UnknownContent, VolumeStatus
from omavol.volumes.reconcile import RULES, Device, Facts, Found, Mend, Served, Writing, reconcile
from volume_world import content_of

V, F, W, S = VolumeStatus, Found, Writing, Served
EVERY = [
    Facts(*facts)
    for facts in itertools.product((False, True), VolumeStatus, Found, Writing, Served, (False, True), Device)
    if facts[2] is Found.ATTACHED or facts[-1] is Device.SOUND  # only of what is attached a device is looked for
]
BROKEN = (F.SHORT, F.MISSING)


def test_the_table_is_total_and_keeps_its_laws():
    for facts in EVERY:
        mend = reconcile(facts).mend
        if facts.busy:
            assert mend is Mend.NONE, facts
        if facts.found is F.UNTOLD:
            assert mend in (Mend.NONE, Mend.WAIT, Mend.REPORT), facts
        if mend in (Mend.OFFER, Mend.READD):
            assert facts.status is V.ATTACHED, facts
            assert facts.found is F.ATTACHED, facts
            assert facts.served is not S.AWAY, facts
            assert facts.writing in (W.UNOFFERED, W.OPEN), facts
        if mend is Mend.READD:
            assert facts.served is S.GONE, facts
        if facts.writing is W.OPEN and facts.served is S.OTHER and not facts.busy:
            assert mend not in (Mend.NONE, Mend.OFFER, Mend.READD) or facts.status is V.DELETED, facts
        if facts.status is V.DELETED:
            assert mend in (Mend.NONE, Mend.REPORT), facts
        if facts.status is V.ATTACHED and facts.found in BROKEN and not facts.busy:
            assert mend is Mend.OUTSIDE, facts
        if facts.device is not Device.SOUND and not facts.busy:  # nothing is served from where the volume is not
            assert mend not in (Mend.OFFER, Mend.READD), facts
        if facts.status is V.ATTACHED and facts.device is Device.LOST and not facts.busy:
            assert mend is Mend.LOSE, facts


def test_every_rule_decides_something():
    assert {id(reconcile(facts)) for facts in EVERY} == {id(rule) for rule in RULES}


@pytest.mark.parametrize(
    ("status", "found", "writing", "served", "stray", "wanted"),
    [
        (V.ATTACHED, F.ATTACHED, W.OPEN, S.SERVED, False, Mend.NONE),
        (V.ATTACHED, F.ATTACHED, W.OPEN, S.GONE, False, Mend.READD),
        (V.ATTACHED, F.ATTACHED, W.OPEN, S.OTHER, False, Mend.DOOM),
        (V.ATTACHED, F.ATTACHED, W.OPEN, S.AWAY, False, Mend.WAIT),
        (V.ATTACHED, F.ATTACHED, W.UNOFFERED, S.OTHER, False, Mend.OFFER),
        (V.ATTACHED, F.ATTACHED, W.DOOMED, S.OTHER, False, Mend.NONE),
        (V.ATTACHED, F.ATTACHED, W.PROVING, S.GONE, False, Mend.END),
        (V.ATTACHED, F.ATTACHED, W.NONE, S.OTHER, True, Mend.DROP_STRAY),
        (V.ATTACHED, F.MISSING, W.OPEN, S.SERVED, False, Mend.OUTSIDE),
        (V.ATTACHED, F.DETACHED, W.NONE, S.OTHER, False, Mend.OUTSIDE),
        (V.DETACHED, F.ATTACHED, W.NONE, S.OTHER, False, Mend.OUTSIDE),
        (V.DETACHED, F.DETACHED, W.NONE, S.AWAY, False, Mend.NONE),
        (V.ERROR, F.DETACHED, W.NONE, S.OTHER, False, Mend.SETTLE),
        (V.ERROR, F.MISSING, W.NONE, S.OTHER, False, Mend.REPORT),
        (V.DELETED, F.DETACHED, W.NONE, S.OTHER, False, Mend.REPORT),
        (V.CREATING, F.MISSING, W.NONE, S.OTHER, False, Mend.SETTLE),
    ],
)
def test_the_cases_a_reader_asks_for(status, found, writing, served, stray, wanted):
    assert reconcile(Facts(False, status, found, writing, served, stray)).mend is wanted


def test_a_device_that_is_elsewhere_or_gone():
    def mend(status: VolumeStatus, device: Device) -> Mend:
        return reconcile(Facts(False, status, F.ATTACHED, W.OPEN, S.SERVED, False, device)).mend

    assert mend(V.ATTACHED, Device.ADRIFT) is Mend.NAME
    assert mend(V.ATTACHED, Device.LOST) is Mend.LOSE
    assert mend(V.ERROR, Device.LOST) is Mend.REPORT
    assert mend(V.ERROR, Device.ADRIFT) is mend(V.ERROR, Device.SOUND) is Mend.SETTLE


# --- the mender -------------------------------------------------------------------------------------------------


def found(world) -> list[tuple[str, bool]]:
    return [(finding.code, finding.mended) for finding in world.mender.run().findings]


def test_nothing_is_found_where_all_agrees(world):
    volume = world.attached()
    world.open(volume)
    world.create("other")
    assert found(world) == []
    assert world.views.operations({"type": "mend"}, 10) == []


def test_a_lost_file_ends_the_session_and_makes_the_content_unknown(world):
    volume = world.copied(world.attached())
    session = world.open(volume, "next", 2)
    (world.folder / "volumes" / f"{volume.volume_id}.raw").rename(kept := world.folder / "kept")
    assert found(world) == [("volume_lost", True), ("volume_lost", False)]
    lost = world.views.volume(volume.volume_id)
    assert (lost.status, lost.content, lost.generation) == (V.ERROR, UnknownContent(), volume.generation + 1)
    assert world.sessions.get(volume.volume_id, session.session_id).state is SessionState.ENDED
    assert world.serve.exports == {}

    kept.rename(world.folder / "volumes" / f"{volume.volume_id}.raw")
    assert found(world) == [("volume_back", True)]
    back = world.views.volume(volume.volume_id)
    assert (back.status, back.content, back.generation) == (V.ATTACHED, UnknownContent(), volume.generation + 1)


def test_an_export_that_no_session_owns_is_dropped_and_a_foreign_one_is_only_named(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.path.rename(away := world.serve.path.with_suffix(".away"))
    world.sessions.end(volume.volume_id, session.session_id)  # the server could not be told
    away.rename(world.serve.path)
    world.serve.add_by_hand("by-hand", world.folder / "by-hand")
    assert found(world) == [("foreign_export", False), ("stray_export", True)]
    assert list(world.serve.exports) == ["by-hand"]
    assert isinstance(world.views.volume(volume.volume_id).content, Torn)


def test_a_session_whose_server_died_is_doomed_and_can_only_end_unproved(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.restart()
    assert found(world) == [("incarnation_changed", True)]
    assert world.sessions.get(volume.volume_id, session.session_id).unprovable_because
    assert world.serve.exports == {}
    assert found(world) == []
    again = world.open(volume, "job", 2)
    assert world.serve.exports.keys() == {again.export_name}


def test_an_export_taken_away_is_served_again_and_its_counters_are_no_longer_believed(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.write(session.export_name, 0, b"x")
    world.serve.take_away(session.export_name)
    assert found(world) == [("export_gone", True)]
    assert session.export_name in world.serve.exports
    world.sessions.end(volume.volume_id, session.session_id)
    assert isinstance(world.views.volume(volume.volume_id).content, Torn)


def test_a_proof_holds_over_an_export_that_was_taken_away_only_if_it_reads_everything(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.serve.take_away(session.export_name)
    world.mender.run()
    world.store_digests(session, content)
    assert world.prove(session).error is None


def test_a_mend_that_fails_is_one_row_however_often_it_is_tried(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.take_away(session.export_name)
    world.serve.refuse_adds_with = Refused(code="full", detail="the table is full")
    for _ in range(3):
        assert found(world) == [("export_gone", False)]
    (row,) = world.views.operations({"type": "mend"}, 10)
    assert row.error.code == "server_refused"
    world.serve.refuse_adds_with = None
    assert found(world) == [("export_gone", True)]
    (row,) = world.views.operations({"type": "mend"}, 10)
    assert (row.type, row.error) == (OperationType.MEND, None)


def test_a_volume_that_someone_changes_is_left_for_the_next_time(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.take_away(session.export_name)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with world.house.locks.hold(volume.volume_id):
            holding.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    assert found(world) == []
    done.set()
    thread.join()
    assert found(world) == [("export_gone", True)]


def test_digests_of_sessions_that_are_over_are_swept(world):
    volume = world.attached()
    session = world.open(volume)
    world.store_digests(session, content_of(volume))
    (world.folder / "digests" / "0190-left-over").write_bytes(b"x")
    world.mender.run()
    assert [file.name for file in (world.folder / "digests").iterdir()] == [session.session_id]


def test_a_server_that_is_away_is_a_finding_and_nothing_is_changed(world):
    volume = world.attached()
    world.open(volume)
    world.serve.path.rename(away := world.serve.path.with_suffix(".away"))
    assert found(world) == [("server_away", False), ("server_away", False)]
    away.rename(world.serve.path)
    assert found(world) == []
