"""Peer, direction, feature: every cell runs, or is left out with the reason why the peer has no such thing.

Data is compared by digest, the whole disk each time. Direction "client": the peer is a client of `omavol serve`;
"server": our client (`omavol.nbd`) is the peer's. Debian 12's peers and the newest ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import offers
import our_client
import pytest
from benchmarks.servers import OMAVOL
from disks import Disk, serving
from peer_clients import CLIENTS
from peer_servers import SERVERS

from peers import INSTALLED, NEWEST


def cells(table):
    """Every peer, feature and generation; those that are not offered say why."""
    return [
        cell(table, peer, feature, peers)
        for peer in table
        for feature in offers.FEATURES
        for peers in (INSTALLED, NEWEST)
    ]


def cell(table, peer, feature, peers):
    reason = offers.missing(table, peer, feature, peers.newest)
    marks = [pytest.mark.skip(reason=f"{peer}, {feature}, {peers.label}: {reason}")] if reason else []
    return pytest.param(peers, peer, feature, id=f"{peer}-{feature}-{peers.label.replace(' ', '')}", marks=marks)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def served(place) -> Iterator[Disk]:
    """One server for every client, its disk made anew under it for each."""
    disk = Disk.make(place)
    with serving([OMAVOL, "serve", "--unix", place / "ours", disk.path], place / "ours", os.environ):
        yield disk


@pytest.mark.parametrize(("peers", "peer", "feature"), cells(offers.CLIENTS))
def test_client(served, peers, peer, feature):
    served.reset()
    CLIENTS[peer](peers, served, f"nbd+unix:///?socket={served.place}/ours", feature)


@pytest.mark.parametrize(("peers", "peer", "feature"), cells(offers.SERVERS))
def test_server(place, peers, peer, feature):
    disk = Disk.make(place)
    with SERVERS[peer](peers, disk) as uri:
        our_client.DOES[feature](uri, disk)


def test_every_peer_of_the_tables_has_its_cells():
    assert set(offers.CLIENTS) == set(CLIENTS) and set(offers.SERVERS) == set(SERVERS)
