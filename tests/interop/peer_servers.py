"""The servers of others, each serving the disk; gives a URI for our client."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from benchmarks.servers import wait_for_socket
from disks import Disk, free_port, run, serving, storage_daemon, until_gone
from security import Security

from peers import Peers


@contextmanager
def nbdkit(peers: Peers, disk: Disk, security: Security) -> Iterator[str]:
    path = disk.place / "peer"
    with serving(peers.nbdkit("-U", path, *security.nbdkit(), "file", disk.path), path, peers.environment()):
        yield security.uri(path)


@contextmanager
def qemu_nbd(peers: Peers, disk: Disk, security: Security) -> Iterator[str]:
    path = disk.place / "peer"
    secured = [] if security.kind == "plain" else [*security.objects("server"), "--tls-creds", "t"]
    argv = peers.command("qemu-nbd", *secured, "-t", "-k", path, "-f", "raw", "--discard=unmap", disk.path)
    with serving(argv, path, peers.environment()):
        yield security.uri(path)


@contextmanager
def qemu_storage_daemon(peers: Peers, disk: Disk, security: Security) -> Iterator[str]:
    path = disk.place / "peer"
    node = f"driver=file,node-name=n,discard=unmap,filename={disk.path}"
    secured = {"objects": security.objects("server"), "credentials": security.credentials}
    with serving(storage_daemon(peers, node, path, **secured), path, peers.environment()):
        yield security.uri(path)


@contextmanager
def nbd_server(peers: Peers, disk: Disk, security: Security) -> Iterator[str]:
    path, settings, pid = disk.place / "peer", disk.place / "settings", disk.place / "pid"
    path.unlink(missing_ok=True)
    settings.write_text(
        f"[generic]\nunixsock = {path}\nport = {free_port()}\nlistenaddr = 127.0.0.1\nallowlist = true\n"
        f"{security.nbd_server()}"
        f"[disk]\nexportname = {disk.path}\nflush = true\nfua = true\ntrim = true\n"
    )
    run(peers.command("nbd-server", "-C", settings, "-p", pid), peers.environment())
    wait_for_socket(path)
    number = int(pid.read_text())
    try:
        yield security.uri(path, "disk")
    finally:
        os.kill(number, signal.SIGTERM)
        until_gone(number)


SERVERS: Mapping[str, Callable] = {
    "nbdkit": nbdkit,
    "qemu-nbd": qemu_nbd,
    "qemu-storage-daemon": qemu_storage_daemon,
    "nbd-server": nbd_server,
}
