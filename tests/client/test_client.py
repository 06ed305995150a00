"""How the clients behave when answers are missing, late, broken or problems."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol.client import BadAnswer, ProblemError, Unreachable, VolumeClient, WaitedTooLong
from omavol.client.http import ATTEMPTS
from omavol.client.problem import problem_of
from omavol.client.source import SourceClient
from omavol.schema.common import Problem, now
from omavol.schema.volumes import Operation, OperationStatus, OperationType, Provider

PROBLEM = Problem(status=409, code="volume_busy", title="Busy", detail="volume v is being attached").for_the_wire()


def operation(status: OperationStatus, **more: object) -> bytes:
    return msgspec.json.encode(
        Operation(
            id="op-1",
            type=OperationType.ATTACH,
            status=status,
            volume_id="v",
            request={},
            created_at=now(),
            updated_at=now(),
            **more,  # type: ignore[arg-type]  # a test's shorthand
        )
    )


async def test_a_problem_document_becomes_an_error_with_its_code_and_detail(peer, answer):
    peer.answers = [answer(409, msgspec.json.encode(PROBLEM), "application/problem+json")]
    async with VolumeClient(peer.path) as client:
        with pytest.raises(ProblemError) as caught:
            await client.detach("v")
    assert caught.value.problem == PROBLEM
    assert str(caught.value) == "volume v is being attached"


async def test_a_read_is_tried_again_until_it_is_answered(peer, answer):
    busy = answer(503, msgspec.json.encode(msgspec.structs.replace(PROBLEM, status=503)), "application/problem+json")
    peer.answers = [None, busy, answer(200, b"[]")]
    async with VolumeClient(peer.path) as client:
        assert await client.volumes() == []
    assert peer.requests == ["GET /api/v1/volumes"] * 3


async def test_a_read_gives_up_after_a_bounded_number_of_attempts(peer):
    peer.answers = [None]
    async with VolumeClient(peer.path) as client:
        with pytest.raises(Unreachable, match="omavol daemon at"):
            await client.volumes()
    assert len(peer.requests) == ATTEMPTS


async def test_an_act_without_a_key_is_never_sent_twice(peer):
    peer.answers = [None]
    async with VolumeClient(peer.path) as client:
        with pytest.raises(Unreachable) as caught:
            await client.set_provider(Provider(kind="local", appliance_vm_id="a"))
    assert caught.value.may_have_acted
    assert peer.requests == ["PUT /api/v1/provider"]


async def test_an_operation_whose_answer_was_lost_is_asked_for_again_under_the_same_key(peer, answer):
    peer.answers = [None, answer(201, operation(OperationStatus.PENDING))]
    async with VolumeClient(peer.path) as client:
        assert (await client.attach("v", "vm")).id == "op-1"
    keys = [headers["idempotency-key"] for headers in peer.headers]
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_a_peer_that_is_not_there_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("omavol.client.http.RETRY_WAIT", 0.001)
    async with VolumeClient(tmp_path / "none") as client:
        with pytest.raises(Unreachable) as caught:
            await client.health()
    assert not caught.value.may_have_acted
    assert "\n" not in str(caught.value)


async def test_wait_follows_an_operation_to_its_end(peer, answer):
    peer.answers = [
        answer(200, operation(OperationStatus.EXECUTING)),
        answer(200, operation(OperationStatus.COMPLETED)),
    ]
    async with VolumeClient(peer.path) as client:
        done = await client.wait(msgspec.json.decode(operation(OperationStatus.PENDING), type=Operation), 5)
    assert done.status is OperationStatus.COMPLETED
    assert len(peer.requests) == 2


async def test_wait_raises_the_problem_of_a_failed_operation(peer):
    failed = msgspec.json.decode(operation(OperationStatus.FAILED, error=PROBLEM), type=Operation)
    async with VolumeClient(peer.path) as client:
        with pytest.raises(ProblemError) as caught:
            await client.wait(failed, 5)
    assert caught.value.code == "volume_busy"


async def test_wait_ends_when_its_time_is_over_and_says_that_the_operation_goes_on(peer, answer):
    peer.answers = [answer(200, operation(OperationStatus.EXECUTING, step="attach"))]
    started = time.monotonic()
    async with VolumeClient(peer.path) as client:
        with pytest.raises(WaitedTooLong, match="step attach"):
            await client.wait(msgspec.json.decode(peer.answers[0].partition(b"\r\n\r\n")[2], type=Operation), 0.05)
    assert time.monotonic() - started < 5


async def test_a_download_that_breaks_off_raises(peer, answer):
    peer.answers = [answer(200, b"half", "application/octet-stream", length=100)]
    peer.hangs_up_after_answering = True
    async with SourceClient("http://agent", "secret", unix=peer.path) as client:
        with pytest.raises(Unreachable):
            async for _ in client.digests("job", "disk"):
                pass


async def test_the_source_client_sends_its_token_and_quotes_ids(peer, answer):
    peer.answers = [answer(200, b"")]
    async with SourceClient("http://agent", "secret", unix=peer.path) as client:
        await client.commit("../a b")
    assert peer.requests == ["POST /api/v1/replications/..%2Fa%20b/commit"]
    assert peer.headers[0]["authorization"] == "Bearer secret"


async def test_an_answer_of_another_shape_is_refused_and_says_what_was_wrong(peer, answer):
    peer.answers = [answer(200, b'{"status": "ok"}')]
    async with SourceClient("http://agent", "secret", unix=peer.path) as client:
        with pytest.raises(BadAnswer, match="timestamp"):
            await client.health()


@settings(deadline=None)
@given(
    status=st.integers(400, 599), kind=st.sampled_from(["", "application/problem+json", "text/html"]), body=st.binary()
)
def test_any_answer_of_failure_becomes_one_error_of_one_line(status, kind, body):
    error = problem_of(status, kind, body)
    assert isinstance(error, ProblemError)
    if isinstance(error, BadAnswer):
        assert error.problem.status == status
        assert "\n" not in str(error)
