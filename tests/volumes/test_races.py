"""Two at once on one volume: each pair in the order that would hurt, made by hand and not by luck."""

from __future__ import annotations

import threading

import pytest

from omavol.schema.volumes import OperationStatus, SessionState, UnknownContent, VolumeStatus
from omavol.volumes import orders
from omavol.volumes.errors import VolumeError
from volume_world import content_of


def test_a_detach_that_begins_while_a_session_opens_wins_and_the_session_is_refused(world):
    volume = world.attached()
    begun = []

    def detach_now() -> None:
        world.serve.before_listing = lambda: None
        begun.append(orders.detach(world.operations, volume.volume_id, None))

    world.serve.before_listing = detach_now  # the session has judged the volume and asks the server
    with pytest.raises(VolumeError) as caught:
        world.open(volume)
    assert caught.value.code == "volume_busy"
    assert world.wait(begun[0]).status is OperationStatus.COMPLETED
    left = world.views.volume(volume.volume_id)
    assert (left.status, left.content, left.session) == (VolumeStatus.DETACHED, UnknownContent(), None)
    assert world.serve.exports == {}


def test_a_proof_asked_for_while_the_session_is_being_ended_is_refused(world):
    volume = world.attached()
    content = content_of(volume)
    session = world.open(volume)
    world.serve.write(session.export_name, 0, content)
    world.store_digests(session, content)
    outcome: list[str] = []

    def prove() -> None:
        try:
            world.prove(session)
            outcome.append("proved")
        except VolumeError as error:
            outcome.append(error.code)

    asking = threading.Thread(target=prove)
    with world.house.locks.hold(volume.volume_id):
        asking.start()
        asking.join(0.2)  # it waits for the lock; if it did not, the assertions below would fail
        world.sessions.end(volume.volume_id, session.session_id)
    asking.join()
    assert outcome == ["session_ended"]
    assert world.sessions.get(volume.volume_id, session.session_id).state is SessionState.ENDED
    assert world.views.operations({"type": "prove"}, 10) == []


def test_many_threads_opening_with_rising_epochs_leave_one_session_and_one_export(world):
    volume = world.attached()
    errors: list[str] = []

    def open_(epoch: int) -> None:
        try:
            world.open(volume, f"job{epoch}", epoch)
        except VolumeError as error:
            errors.append(error.code)

    threads = [threading.Thread(target=open_, args=(epoch,)) for epoch in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(errors) <= {"stale_epoch"}
    live = world.views.volume(volume.volume_id).session
    assert live.epoch == 12
    assert list(world.serve.exports) == [live.export_name]
