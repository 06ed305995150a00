"""The unified list: newest first, filtered, paged without gaps or repeats."""

from __future__ import annotations

import pytest
from builders import machine

from omactl.rules.messages import Failure
from omactl.rules.transitions import JobStatus
from omactl.store import closing, contexts, jobs, queries
from omactl.store.closing import Closing
from omactl.store.jobs import NewJob
from omactl.store.queries import Filter


async def ended_job(database, context):
    job = await database.write(jobs.create, NewJob("replication", context.context_id, "test"))
    hold = await database.write(jobs.claim, job.id, "me", 60)
    await database.write(closing.close_jobs, [Closing(hold, JobStatus.FAILED, "unknown")])
    return job.id


async def test_pages_cover_the_list_newest_first(database, web01):
    made = [await ended_job(database, web01) for _ in range(7)]
    seen, cursor = [], None
    while True:
        page = await database.read(queries.list_jobs, Filter(limit=3, cursor=cursor))
        seen += [line.job.id for line in page.lines]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == made[::-1]


async def test_filters_narrow_the_list(database, web01):
    db01, _ = await database.write(contexts.add, "lab", "lab-host", machine("db01"))
    ended = await ended_job(database, web01)
    live = await database.write(jobs.create, NewJob("replication", db01.context_id, "test"))

    async def found(**wanted):
        return [line.job.id for line in (await database.read(queries.list_jobs, Filter(**wanted))).lines]

    assert await found(machine="web01") == await found(machine=web01.context_id) == [ended]
    assert await found(status="failed") == await found(live=False) == [ended]
    assert await found(live=True) == [live.id]
    assert await found(kind="rollback") == []


@pytest.mark.parametrize("cursor", ["x", "AAAA", "!!!", "é"])
async def test_a_foreign_cursor_is_refused_in_words(database, cursor):
    with pytest.raises(Failure) as caught:
        await database.read(queries.list_jobs, Filter(cursor=cursor))
    assert caught.value.code == "invalid_parameter"
