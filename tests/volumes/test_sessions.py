"""Write sessions: who may write, what the volume holds meanwhile and afterwards."""

from __future__ import annotations

import pytest

from omavol.schema import control
from omavol.schema.volumes import AtPoint, Base, ProofLevel, SessionState, Torn, UnknownContent
from omavol.volumes.errors import VolumeError
from volume_world import content_of


def test_an_open_session_serves_exactly_the_source_disk_under_a_name_nobody_can_guess(world):
    volume = world.attached()
    session = world.open(volume)
    served = world.serve.exports[session.export_name]
    assert served.size == volume.size < volume.capacity
    assert len(session.export_name) == 32
    assert int(session.export_name, 16)
    assert session.uri == f"nbd+unix:///{session.export_name}?socket={world.serve.path}.nbd"
    assert session.uris[1] == f"nbd://127.0.0.1:10809/{session.export_name}"


def test_a_volume_is_torn_from_the_moment_a_session_opens(world):
    volume = world.attached()
    session = world.open(volume, job="j")
    assert world.views.volume(volume.volume_id).content == Torn(since_session=session.session_id, job="j", base=None)


def test_a_session_that_wrote_nothing_gives_the_former_content_back(world):
    volume = world.copied(world.attached())
    held = volume.content
    session = world.open(volume, job="next", epoch=2, base=Base(generation=volume.generation, point="p1"))
    assert session.mode == "incremental"
    ended = world.sessions.end(volume.volume_id, session.session_id)
    assert ended.state is SessionState.ENDED
    assert world.views.volume(volume.volume_id).content == held
    assert world.serve.exports == {}


def test_a_session_that_only_flushed_wrote_nothing_and_one_that_only_zeroed_did(world):
    volume = world.copied(world.attached())
    session = world.open(volume, "flushes", 2)
    world.serve.flush(session.export_name)
    world.sessions.end(volume.volume_id, session.session_id)
    assert world.views.volume(volume.volume_id).content == volume.content
    session = world.open(volume, "zeroes", 3)
    world.serve.zero(session.export_name, 0, 512)
    world.sessions.end(volume.volume_id, session.session_id)
    assert isinstance(world.views.volume(volume.volume_id).content, Torn)


def test_a_session_that_wrote_leaves_it_torn_on_the_old_point_which_an_incremental_heals(world):
    volume = world.copied(world.attached())
    base = Base(generation=volume.generation, point="p1")
    session = world.open(volume, "second", 2, base=base)
    world.serve.write(session.export_name, 0, b"half")
    world.sessions.end(volume.volume_id, session.session_id)
    torn = world.views.volume(volume.volume_id)
    assert torn.content == Torn(since_session=session.session_id, job="second", base="p1")
    assert torn.generation == volume.generation
    healing = world.open(volume, "third", 3, base=base)
    assert healing.mode == "incremental"
    assert "second" in healing.reason


def test_a_full_pass_leaves_no_base_for_it_may_have_carried_another_disk(world):
    volume = world.copied(world.attached())
    session = world.open(volume, "full", 2)
    world.serve.write(session.export_name, 0, b"half")
    world.sessions.end(volume.volume_id, session.session_id)
    after = world.open(volume, "next", 3, base=Base(generation=volume.generation, point="p1"))
    assert after.mode == "full"
    assert "no proved point" in after.reason


@pytest.mark.parametrize(
    ("base", "word"),
    [
        (None, "no base"),
        (Base(generation=1, point="other"), "p1"),
        (Base(generation=9, point="p1"), "generation"),
    ],
)
def test_a_base_that_is_not_the_volumes_makes_the_pass_full_and_says_why(world, base, word):
    volume = world.copied(world.attached())
    session = world.open(volume, "next", 2, base=base)
    assert (session.mode, session.base) == ("full", None)
    assert word in session.reason


def test_the_same_job_and_epoch_get_the_same_session_again(world):
    volume = world.attached()
    assert world.open(volume).session_id == world.open(volume).session_id
    assert len(world.serve.exports) == 1


def test_a_newer_epoch_ends_the_older_session_and_its_export(world):
    volume = world.attached()
    old = world.open(volume, "j", 1)
    world.serve.write(old.export_name, 0, b"x")
    new = world.open(volume, "j", 2)
    assert list(world.serve.exports) == [new.export_name]
    ended = world.sessions.get(volume.volume_id, old.session_id)
    assert ended.state is SessionState.ENDED
    assert "epoch 2" in ended.ended_because
    assert ended.bytes_written == 1


def test_an_older_epoch_is_refused_for_ever_and_told_who_came_after_it(world):
    volume = world.attached()
    world.open(volume, "new", 5)
    for job in ("old", "new"):
        with pytest.raises(VolumeError) as caught:
            world.open(volume, job, 4)
        assert (caught.value.status, caught.value.code) == (409, "stale_epoch")
        assert "job new with epoch 5" in caught.value.detail
    session = world.views.volume(volume.volume_id).session
    world.sessions.end(volume.volume_id, session.session_id)
    with pytest.raises(VolumeError, match="newer epoch"):
        world.open(volume, "old", 4)


def test_another_job_at_the_same_epoch_is_told_who_holds_the_volume(world):
    volume = world.attached()
    world.open(volume, "first", 1)
    with pytest.raises(VolumeError) as caught:
        world.open(volume, "second", 1)
    assert caught.value.code == "session_held"
    assert "first" in caught.value.detail


def test_only_an_attached_volume_can_be_written(world):
    volume = world.create()
    with pytest.raises(VolumeError) as caught:
        world.open(volume)
    assert caught.value.code == "not_attached"


def test_nothing_is_recorded_when_the_server_is_away(world):
    volume = world.attached()
    world.serve.stop()
    with pytest.raises(VolumeError) as caught:
        world.open(volume)
    world.serve.start()
    assert (caught.value.status, caught.value.code) == (503, "server_away")
    assert world.sessions.all(volume.volume_id) == []
    assert world.views.volume(volume.volume_id).content == UnknownContent()


def test_an_export_that_the_server_refuses_gives_the_content_back_and_ends_the_session(world):
    volume = world.copied(world.attached())
    world.serve.refuse_adds_with = control.Refused(code="too_many", detail="the table is full")
    with pytest.raises(VolumeError, match="table is full"):
        world.open(volume, "next", 2)
    assert world.views.volume(volume.volume_id).content == volume.content
    assert world.sessions.all(volume.volume_id)[0].state is SessionState.ENDED


def test_a_proof_records_the_point_with_what_was_compared(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    done = world.prove(session, "p1")
    assert done.error is None
    assert done.response["bytes_compared"] >= volume.size
    assert world.views.volume(volume.volume_id).content == AtPoint(point="p1", proof=ProofLevel.DIGEST)
    assert world.sessions.get(volume.volume_id, session.session_id).state is SessionState.PROVED
    assert world.serve.exports == {}
    assert not world.house.digests_of(session.session_id).exists()


def test_a_byte_flipped_on_the_volume_is_found_and_named(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    world.serve.write(session.export_name, 2**20 + 5, b"\xff")
    done = world.prove(session, "p1")
    assert done.error.code == "digest_mismatch"
    assert f"{2**20}+{2**20}" in done.error.detail
    assert isinstance(world.views.volume(volume.volume_id).content, Torn)
    assert world.sessions.get(volume.volume_id, session.session_id).state is SessionState.ENDED


def test_a_server_that_died_meanwhile_cannot_be_proved_and_stays_torn(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.write(session.export_name, 0, b"acknowledged, not flushed")
    world.store_digests(session, content_of(volume))
    world.serve.restart()
    done = world.prove(session)
    assert done.error.code == "incarnation_changed"
    assert isinstance(world.views.volume(volume.volume_id).content, Torn)


def test_a_claim_of_another_incarnation_is_not_believed(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.incarnation, real = "another", world.serve.incarnation
    row = world.sessions.find(volume.volume_id, session.session_id)
    claim_from_another = world.prove(session, level=ProofLevel.FLUSHED)
    assert row.incarnation == real
    assert claim_from_another.error.code == "incarnation_changed"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: None, "digests_missing"),
        (lambda data: data[:-1], "digests_invalid"),
        (lambda data: b"", "digests_invalid"),
    ],
)
def test_a_claim_that_cannot_be_judged_leaves_the_session_open(world, damage, code):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    path = world.house.digests_of(session.session_id)
    data = damage(path.read_bytes())
    path.unlink() if data is None else path.write_bytes(data)
    assert world.prove(session).error.code == code
    assert world.sessions.get(volume.volume_id, session.session_id).state is SessionState.OPEN
    world.store_digests(session, content)
    assert world.prove(session).error is None


def test_digests_of_another_disk_size_are_refused(world):
    volume = world.attached()
    session = world.open(volume)
    world.store_digests(session, b"\x01" * 4096)
    assert world.prove(session).error.code == "digests_invalid"


def test_a_server_that_is_away_does_not_end_the_session(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    world.serve.path.rename(away := world.serve.path.with_suffix(".away"))
    done = world.prove(session)
    away.rename(world.serve.path)
    assert done.error.code == "server_away"
    assert world.prove(session).error is None


def test_proving_again_with_the_same_point_is_the_same_operation_and_another_point_is_refused(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    first = world.prove(session, "p1")
    assert world.prove(session, "p1").id == first.id
    with pytest.raises(VolumeError) as caught:
        world.prove(session, "p2")
    assert caught.value.code == "session_proved"


def test_the_flushed_level_needs_no_digests(world):
    volume = world.attached()
    session = world.open(volume)
    world.serve.write(session.export_name, 0, b"x")
    done = world.prove(session, "p1", ProofLevel.FLUSHED)
    assert done.error is None
    assert world.views.volume(volume.volume_id).content == AtPoint(point="p1", proof=ProofLevel.FLUSHED)


def test_a_volume_whose_file_shrank_is_not_served(world):
    volume = world.attached()
    with open(volume.device_path, "r+b") as file:  # noqa: PTH123  # truncate needs an open file
        file.truncate(volume.size - 1)
    with pytest.raises(VolumeError) as caught:
        world.open(volume)
    assert caught.value.code == "device_wrong"
    assert world.views.volume(volume.volume_id).content == UnknownContent()
