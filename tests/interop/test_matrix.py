"""Peer, direction, feature: every cell runs, or is left out with the reason why the peer has no such thing.

Data is compared by digest, the whole disk each time. Direction "client": the peer is a client of `omavol serve`;
"server": our client (`omavol.nbd`) is the peer's. The columns of TLS, "x509" with certificates of both sides and "psk"
with a key, do inside it what the peer can of INSIDE_TLS. Debian 12's peers and the newest ones.
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
from security import KINDS, Security

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


def asked(table, peer, feature):
    """What a cell does; in a column of TLS it is something."""
    done = [each for each in offers.INSIDE_TLS if each in table[peer][0].split()] if feature in KINDS else [feature]
    assert done
    return done


def security_of(feature, pki):
    return Security(feature if feature in KINDS else "plain", pki)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield place
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def served(place, pki) -> Iterator[Disk]:
    """A plain server and one that demands TLS for every client, their disk made anew under them for each."""
    disk = Disk.make(place)
    plain = [OMAVOL, "serve", "--unix", place / "plain", disk.path]
    by = ("--tls-certificates", pki.server, "--tls-verify-client", "--tls-psk", pki.keys)
    secured = [OMAVOL, "serve", "--unix", place / "secured", "--tls", "require", *by, disk.path]
    with serving(plain, place / "plain", os.environ), serving(secured, place / "secured", os.environ):
        yield disk


@pytest.mark.parametrize(("peers", "peer", "feature"), cells(offers.CLIENTS))
def test_client(served, pki, peers, peer, feature):
    for done in asked(offers.CLIENTS, peer, feature):
        served.reset()
        path = served.place / ("secured" if feature in KINDS else "plain")
        CLIENTS[peer](peers, served, path, security_of(feature, pki), done)


@pytest.mark.parametrize(("peers", "peer", "feature"), cells(offers.SERVERS))
def test_server(place, pki, peers, peer, feature):
    disk = Disk.make(place)
    with SERVERS[peer](peers, disk, security_of(feature, pki)) as uri:
        for done in asked(offers.SERVERS, peer, feature):
            our_client.DOES[done](uri, disk)


def test_every_peer_of_the_tables_has_its_cells():
    assert set(offers.CLIENTS) == set(CLIENTS) and set(offers.SERVERS) == set(SERVERS)
