"""A volume's name as a device-mapper node: web01-disk0 over whatever device the volume is at present.

The node is a view of the record (ARCHITECTURE.md): its name is the volume's for life, its UUID OMA-<volume id>, its
table linear and exactly the source disk's size. It stands while the volume is attached here; when the device is lost
it fails every request, so that nobody hangs; when the device comes back under another letter it is swapped beneath
those who have the node open. Nodes that are not ours are never touched.

A node's page cache belongs to the node, not to the device beneath: after a swap it would give the old device's bytes,
and a write of 512 of them would carry the rest of the page along. So a swap empties it before and after, and whoever
serves the node holds the requests meanwhile (`held`).
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omavol import failpoint
from omavol.block.correlate import NODE_PREFIX
from omavol.block.errors import BlockError, DeviceBusy, ForeignNode
from omavol.block.holders import holders_of
from omavol.block.mapper import SECTOR, Mapper, NewNode, Node, Target, error, linear

__all__ = ["RULES", "MappedNames", "Named", "NodeFacts", "NodeRule", "NodeStep", "Table", "node_step"]

log = logging.getLogger("omavol.block")
BLKFLSBUF = 0x1261  # linux/fs.h: write back and drop the buffers of a device
STEPS_MOST = 4  # from any state to the wanted one: rename, swap, resume, and a look that finds nothing to do


@dataclass(frozen=True)
class Named:
    """A volume as its node shows it; `size` is the source disk's, in bytes, a multiple of 512."""

    volume_id: str
    name: str
    size: int

    @property
    def uuid(self) -> str:
        return NODE_PREFIX + self.volume_id


class Table(StrEnum):
    """The node's live table, held against the wanted one."""

    NO_NODE = "no-node"
    RIGHT = "right"
    FAILING = "failing"  # the error target
    OTHER = "other"  # another device or another size
    EMPTY = "empty"  # none at all


class NodeStep(StrEnum):
    NOTHING = "nothing"
    CREATE = "create"
    RENAME = "rename"
    RESUME = "resume"
    SWAP = "swap"
    LOSE = "lose"
    REMOVE = "remove"
    REFUSE = "refuse"


@dataclass(frozen=True)
class NodeFacts:
    """`wanted`: the record has the volume attached here. `device`: its device is there.

    `taken`: a node that is not this volume's has its name. `misnamed`: the node has another name than the record.
    """

    wanted: bool
    device: bool
    taken: bool
    table: Table
    misnamed: bool
    suspended: bool


@dataclass(frozen=True)
class NodeRule:
    matches: Callable[[NodeFacts], bool]
    step: NodeStep
    reason: str


S, T = NodeStep, Table
RULES: tuple[NodeRule, ...] = (
    NodeRule(lambda f: not f.wanted and f.table is T.NO_NODE, S.NOTHING, "not attached here, and no node stands"),
    NodeRule(lambda f: not f.wanted, S.REMOVE, "not attached here any more"),
    NodeRule(lambda f: f.table is T.EMPTY, S.REMOVE, "whoever made it died before it had a table"),
    NodeRule(lambda f: not f.device and f.table is T.NO_NODE, S.NOTHING, "no device yet"),
    NodeRule(lambda f: not f.device and f.table is T.FAILING and not f.suspended, S.NOTHING, "lost, and failing"),
    NodeRule(lambda f: not f.device, S.LOSE, "its device is gone: whoever uses it must not hang"),
    NodeRule(lambda f: f.taken, S.REFUSE, "a node that is not ours has its name"),
    NodeRule(lambda f: f.table is T.NO_NODE, S.CREATE, "its device is there"),
    NodeRule(lambda f: f.misnamed, S.RENAME, "the record has another name"),
    NodeRule(lambda f: f.table is not T.RIGHT, S.SWAP, "its device is another one"),
    NodeRule(lambda f: f.suspended, S.RESUME, "a swap was not brought to its end"),
    NodeRule(lambda f: True, S.NOTHING, "stands as recorded"),
)


def node_step(facts: NodeFacts) -> NodeRule:
    """The first rule that matches; the last always does."""
    return next(rule for rule in RULES if rule.matches(facts))


class MappedNames:
    """Names as nodes of `mapper`. Any thread may call, one at a time a volume.

    Whatever a crash left behind, the same call made again ends where it was to end. BlockError, with who is in the way.
    """

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper

    def give(self, named: Named, device: Path, held: AbstractContextManager[object] | None = None) -> Path:
        """The volume's node over `device`: made, or brought there from whatever state it is in; its path.

        `held` keeps requests away while the device is changed beneath a node that is served; it is not entered if
        nothing is to be changed.
        """
        self._settle(named, wanted=True, device=device, held=held or nullcontext())
        return Path("/dev/mapper") / named.name

    def lose(self, named: Named) -> None:
        """Its device is gone: let every request to the node fail from here on. No node: nothing to do."""
        self._settle(named, wanted=True, device=None, held=nullcontext())

    def take_away(self, named: Named) -> None:
        """Remove the node; DeviceBusy with the holders' names while somebody has it open."""
        self._settle(named, wanted=False, device=None, held=nullcontext())

    def stands(self, named: Named, device: Path) -> bool:
        """Whether the node is over `device` as it should be; nothing is changed."""
        facts = self._facts(named, True, _number(device), self._mapper.find_uuid(named.uuid))
        return node_step(facts).step is NodeStep.NOTHING

    def standing(self) -> list[Node]:
        """Our nodes as the kernel has them."""
        return [node for node in self._mapper.nodes() if node.uuid.startswith(NODE_PREFIX)]

    def _settle(self, named: Named, *, wanted: bool, device: Path | None, held: AbstractContextManager[object]) -> None:
        if named.size % SECTOR:
            raise BlockError(f"{named.name} has {named.size} bytes: a block device has whole sectors of {SECTOR}")
        number = _number(device) if device is not None else None
        rule = None
        for _ in range(STEPS_MOST):
            node = self._mapper.find_uuid(named.uuid)
            rule = node_step(self._facts(named, wanted, number, node))
            if rule.step is NodeStep.NOTHING:
                return
            log.info("node %s: %s (%s)", named.name, rule.step, rule.reason)
            self._do(rule, named, number, node, held)
        raise BlockError(f"node {named.name} does not come to rest: {rule.reason if rule else 'unknown'}")

    def _facts(self, named: Named, wanted: bool, number: str | None, node: Node | None) -> NodeFacts:
        there = self._mapper.find(named.name)
        table = Table.NO_NODE
        if node is not None:
            table = _judge(self._mapper.table(node.name), named, number) if node.live else Table.EMPTY
        if table is Table.RIGHT and node is not None and not _holds(node, number):
            table = Table.OTHER
        return NodeFacts(
            wanted=wanted,
            device=number is not None,
            taken=there is not None and there.uuid != named.uuid,
            table=table,
            misnamed=node is not None and node.name != named.name,
            suspended=node is not None and node.suspended,
        )

    def _do(
        self, rule: NodeRule, named: Named, number: str | None, node: Node | None, held: AbstractContextManager[object]
    ) -> None:
        mapper = self._mapper
        if rule.step is NodeStep.REFUSE:
            raise ForeignNode(
                f"a device-mapper node {named.name} stands already and is not ours",
                f"Look at it (dmsetup info {named.name}), and rename or remove it.",
            )
        if rule.step is NodeStep.CREATE:
            assert number is not None
            mapper.create([NewNode(named.name, named.uuid, linear(number, named.size))])
            failpoint.reach("names.created")
            return
        assert node is not None
        if rule.step is NodeStep.RENAME:
            mapper.rename(node.name, named.name)
            failpoint.reach("names.renamed")
        elif rule.step is NodeStep.RESUME:
            self._let_go_on(node)
            _drop_cache(node.path)
        elif rule.step is NodeStep.LOSE:
            self._lose(node, named.size)
        elif rule.step is NodeStep.REMOVE:
            self._remove(node)
        else:
            assert number is not None
            with held:
                self._swap(node, linear(number, named.size))

    def _swap(self, node: Node, table: tuple[Target, ...]) -> None:
        """Another device beneath whoever has the node open. What is not written yet goes to the old one, if it can."""
        if not node.suspended:
            _write_back(node.path)
            self._mapper.suspend(node.name, flush=not self._fails(node), freeze=False)
            failpoint.reach("names.suspended")
        self._mapper.load(node.name, table, read_only=node.read_only)
        failpoint.reach("names.loaded")
        self._mapper.resume(node.name)
        failpoint.reach("names.resumed")
        _drop_cache(node.path)

    def _fails(self, node: Node) -> bool:
        return any(target.kind == "error" for target in self._mapper.table(node.name))

    def _lose(self, node: Node, size: int) -> None:
        """What is under way to a device that is gone may never come back: it is not waited for."""
        self._mapper.load(node.name, error(size), read_only=node.read_only)
        self._mapper.suspend(node.name, flush=False, freeze=False)
        self._mapper.resume(node.name)
        failpoint.reach("names.lost")
        with contextlib.suppress(BlockError):  # what was not written is lost with the device
            _drop_cache(node.path)

    def _let_go_on(self, node: Node) -> None:
        """End a suspension that a crash left: what waits was sent to the live table, not to one that was loaded."""
        if node.inactive:
            self._mapper.clear(node.name)
        self._mapper.resume(node.name)

    def _remove(self, node: Node) -> None:
        if node.suspended and node.live:  # who waits in it would keep it open
            self._let_go_on(node)
        try:
            self._mapper.remove(node.name)
        except DeviceBusy as busy:
            who = ", ".join(str(each) for each in holders_of(node.path)) or "somebody who does not show"
            raise DeviceBusy(f"node {node.name} cannot be removed: {who}", "End that first.") from busy
        failpoint.reach("names.removed")


def _judge(table: tuple[Target, ...], named: Named, number: str | None) -> Table:
    """
    >>> _judge(linear("8:16", 1024), Named("v", "n", 1024), "8:16")
    <Table.RIGHT: 'right'>
    """
    if table == error(named.size):
        return Table.FAILING
    return Table.RIGHT if number is not None and table == linear(number, named.size) else Table.OTHER


def _holds(node: Node, number: str | None) -> bool:
    """Whether the node has the device that bears the number now: a disk that went and came back may bear it again."""
    return Path(f"/sys/dev/block/{number}/holders/dm-{node.number.split(':')[1]}").exists()


def _number(device: Path) -> str:
    """MAJOR:MINOR of a block device."""
    try:
        facts = device.stat()
    except OSError as failure:
        raise BlockError(f"{device} cannot be looked at: {failure.strerror}") from failure
    if not stat.S_ISBLK(facts.st_mode):
        raise BlockError(f"{device} is not a block device: no name can be given to it")
    return f"{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}"


def _write_back(path: Path) -> None:
    """Bring what the node's cache holds to the device and drop it; a device that fails keeps nothing back."""
    try:
        _drop_cache(path)
    except BlockError as failure:
        log.warning("what was written last did not reach its device: %s", failure)


def _drop_cache(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            fcntl.ioctl(descriptor, BLKFLSBUF)
        finally:
            os.close(descriptor)
    except OSError as failure:
        raise BlockError(f"the cache of {path} cannot be emptied: {failure.strerror}") from failure
