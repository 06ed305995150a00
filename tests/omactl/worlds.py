"""A control plane between a fake volume daemon and a fake agent, on real sockets; tests start it anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import sqlalchemy as sa
from builders import machine
from fakes import FakeAgent, FakeVolumes
from serving import serving

from omactl.settings import Settings, Timing
from omactl.store import contexts, jobs, queries, sources
from omactl.work.control import Control

QUICK = Timing(
    follow=0.02, follow_limit=0.05, write=0.02, monitor=3600, lost_after=0.3, lease=30, patience=0.2, parting=2
)


class World:
    """Starts and restarts the control plane; the daemon and the agent stay."""

    def __init__(self, state, stack):
        self.state, self.stack = state, stack
        self.volumes = FakeVolumes()
        self.agent = FakeAgent([machine()])
        self.timing = QUICK
        self.changed = self.agent.changed = asyncio.Event()
        self.control = None

    async def open(self):
        socket = self.state / "volumes.sock"
        await self.stack.enter_async_context(serving(self.volumes.app, socket))
        self.agent_url = await self.stack.enter_async_context(serving(self.agent.app))
        (self.state / "agent-token").write_text(self.agent.token)
        await self.start()
        await self.control.database.write(sources.put, "lab", self.agent_url, str(self.state / "agent-token"))
        [(_, self.context, _)] = await self.control.machines.add("lab", ["web01"])

    async def start(self):
        settings = Settings(state=self.state / "omactl", omavol=self.state / "volumes.sock", timing=self.timing)
        self.control = Control(settings)
        tell_of_writes(self.control.database.engine.sync_engine, self.changed)
        await self.control.open()
        self.control.start()

    async def stop(self):
        await self.control.stop()

    async def restart(self, **timing):
        """As a new process would: nothing is left but the database. `timing` changes settings."""
        await self.stop()
        self.timing = replace(self.timing, **timing)
        await self.start()

    async def replicate(self, **options):
        return await self.control.replicate(self.context, "test", options)

    async def until(self, condition):
        """Wait until the condition (a coroutine function) is true, with a limit."""
        async with asyncio.timeout(20):
            while True:
                self.changed.clear()
                if await condition():
                    return
                await self.changed.wait()

    async def ended(self, job):
        async def has_ended():
            return not (await self.job(job.id)).live

        await self.until(has_ended)
        await self.control.dispatch.finished(job.id)
        return await self.job(job.id)

    async def at_step(self, job, name):
        async def is_there():
            return (await self.steps(job.id))[name] == "running"

        await self.until(is_there)

    async def job(self, job_id):
        return await self.control.database.read(jobs.get, job_id)

    async def steps(self, job_id):
        return {step.name: step.status for step in await self.control.database.read(queries.steps_of, job_id)}

    async def machine(self):
        return await self.control.database.read(contexts.find, self.context.context_id)

    async def disks(self):
        return await self.control.database.read(contexts.disks_of, self.context.context_id)


def tell_of_writes(engine, changed):
    """Set the event whenever a unit of work that may have written is over."""

    @sa.event.listens_for(engine, "commit")
    def _mark(connection):
        if not connection.get_execution_options().get("oma_reads"):
            connection.info["wrote"] = True

    @sa.event.listens_for(engine, "checkin")
    def _tell(_, record):
        if record.info.pop("wrote", False):
            changed.set()
