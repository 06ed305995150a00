"""Discovery: asks sources for their machines, and puts machines under management."""

from __future__ import annotations

from dataclasses import dataclass

from omactl.rules.messages import Failure
from omactl.store import contexts, sources
from omactl.store.engine import Database
from omactl.store.rows import Context
from omactl.work.peers import Peers, asking_source
from omavol.schema.source import Discover, Discovered, Machine

__all__ = ["Found", "Machines"]


@dataclass(frozen=True)
class Found:
    """A machine as its source tells of it, and the context that manages it already, if any."""

    machine: Machine
    context: Context | None


@dataclass(frozen=True)
class Machines:
    """Holds no state. A source that is not named is the only one there is."""

    database: Database
    peers: Peers

    async def source_name(self, wanted: str | None) -> str:
        """The named source, or the only one."""
        known = await self.database.read(sources.list_all)
        if wanted is not None:
            if wanted not in {source.name for source in known}:
                raise Failure("source_unknown", source=wanted)
            return wanted
        if len(known) != 1:
            raise Failure("source_ambiguous" if known else "no_source")
        return known[0].name

    async def discover(self, source: str, filter: str = "") -> list[Found]:
        """The source's machines, by name."""
        told = await self._ask(source, filter)
        known = {
            (context.vmware_vm_id, context.vcenter_host): context
            for context in await self.database.read(contexts.list_all)
        }
        host = _host(source, told)
        found = [Found(machine, known.get((machine.id, host))) for machine in told.vms]
        return sorted(found, key=lambda each: each.machine.name)

    async def add(self, source: str, names: list[str]) -> list[tuple[str, Context | Failure, bool]]:
        """Put the named machines (by name, id or path) under management; of each: context or failure, whether new."""
        told = await self._ask(source, "")
        host = _host(source, told)
        results: list[tuple[str, Context | Failure, bool]] = []
        for name in names:
            machine = next((each for each in told.vms if name in (each.name, each.id, each.path)), None)
            if machine is None:
                results.append((name, Failure("source_lacks_machine", source=source, machine=name), False))
                continue
            try:
                context, fresh = await self.database.write(contexts.add, source, host, machine)
            except Failure as failure:
                results.append((name, failure, False))
            else:
                results.append((name, context, fresh))
        return results

    async def _ask(self, source: str, filter: str) -> Discovered:
        client = await self.peers.source(source)
        async with asking_source(source):
            return await client.discover(Discover(filter=filter))


def _host(source: str, told: Discovered) -> str:
    """Where the machine's own id is unique: the host that the source names, or else the source."""
    return told.vcenter.get("host") or source
