"""An incremental pass against QEMU's own: 640 MiB in 10,240 extents of a 64 GiB qcow2, known by a dirty bitmap.

Ours is the agent's copy: qemu-nbd serves the image and the bitmap, the dirty extents are asked for by block status,
read, hashed, sent into `omavol serve` and flushed; connecting and asking are inside the clock. The peer is
qemu-storage-daemon's `blockdev-backup` with sync=bitmap into nbdkit, from the QMP command to the job's conclusion: it
hashes nothing. Alike: tmpfs, unix sockets, the same image, the same destination size; both destinations flushed.
"""

import json
import random
import shutil
import socket
import subprocess
import time
from contextlib import closing, contextmanager

import pytest

from benchmarks.aims import Faster
from benchmarks.job import JobLane
from benchmarks.race import Lane, Sample, processor_seconds
from benchmarks.servers import nbdkit_file, omavol_serve, qemu_nbd, wait_for_socket

EXTENTS, EXTENT = 10_240, 64 << 10
DISK = 64 << 30
CHANGE = EXTENTS * EXTENT
BITMAP = "since"


@pytest.fixture(scope="module")
def changed(memory):
    """A qcow2 whose bitmap `since` has the 10,240 extents, scattered and never touching."""
    path = memory / "changed.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(DISK)], check=True)
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", path, BITMAP], check=True)
    slots = sorted(random.Random(0).sample(range(DISK // EXTENT // 2), EXTENTS))
    script = "".join(f"write -q -P {slot % 255 + 1} {slot * 2 * EXTENT} {EXTENT}\n" for slot in slots)
    subprocess.run(["qemu-io", "-f", "qcow2", path], input=script, text=True, stdout=subprocess.DEVNULL, check=True)
    twin = memory / "changed-too.qcow2"  # QEMU's locks keep two programs from one image
    shutil.copyfile(path, twin)
    yield path, twin
    path.unlink()
    twin.unlink()


@pytest.fixture
def destinations(memory):
    paths = [memory / "incremental-ours", memory / "incremental-peer"]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(DISK)
    yield paths
    for path in paths:
        path.unlink()


class Monitor:
    """The QMP monitor of a storage daemon, as far as a backup needs it."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        next(self._lines)
        self.execute("qmp_capabilities")

    def close(self):
        self._lines.close()
        self._socket.close()

    def execute(self, command, **arguments):
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        for line in self._lines:
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return
        raise RuntimeError("the storage daemon closed its monitor")

    def wait_for_job(self, job):
        for line in self._lines:
            event = json.loads(line)
            if event.get("event") == "JOB_STATUS_CHANGE" and event["data"] == {"id": job, "status": "concluded"}:
                return
        raise RuntimeError("the storage daemon closed its monitor")


@contextmanager
def storage_daemon(image, target_uri_socket, path):
    """qemu-storage-daemon with the image as node `disk` and nbdkit's export as node `target`."""
    nodes = [
        {"driver": "qcow2", "node-name": "disk", "file": {"driver": "file", "filename": str(image)}},
        {"driver": "nbd", "node-name": "target", "server": {"type": "unix", "path": target_uri_socket}},
    ]
    argv = [
        "qemu-storage-daemon",
        "--chardev",
        f"socket,id=qmp,path={path},server=on,wait=off",
        "--monitor",
        "chardev=qmp",
    ]
    for node in nodes:
        argv += ["--blockdev", json.dumps(node)]
    process = subprocess.Popen(argv)
    try:
        wait_for_socket(path, process)
        with closing(Monitor(path)) as monitor:
            yield process.pid, monitor
    finally:
        process.terminate()
        process.wait(10)


def backup_lane(pid, monitor):
    def run():
        cpu, start = processor_seconds(pid), time.perf_counter()
        options = {"sync": "bitmap", "bitmap": BITMAP, "bitmap-mode": "never", "auto-dismiss": False}
        monitor.execute("blockdev-backup", **{"job-id": "backup", "device": "disk", "target": "target", **options})
        monitor.wait_for_job("backup")
        seconds = time.perf_counter() - start
        monitor.execute("job-dismiss", id="backup")
        return Sample(seconds, processor_seconds(pid) - cpu, 0.0)

    return Lane("blockdev-backup", run)


def test_incremental_against_qemus_own_backup(changed, destinations, sockets, race):
    ours, theirs = destinations
    image, twin = changed
    with (
        nbdkit_file(theirs, sockets) as target,
        storage_daemon(twin, target.uri.partition("socket=")[2], sockets / "qmp") as (pid, monitor),
        omavol_serve(ours, sockets) as server,
        qemu_nbd(image, sockets, fmt="qcow2", bitmap=BITMAP) as source,
    ):
        job = JobLane("omavol, with digests", source, server, context=f"qemu:dirty-bitmap:{BITMAP}")
        race(
            "incremental, 640 MiB in 10,240 extents of 64 GiB",
            aims=[Faster(1)],
            ours=job.lane,
            peers=[backup_lane(pid, monitor)],
            note=lambda outcome: (
                f"read {job.counters.bytes_read / CHANGE:.3f}x, sent {job.counters.bytes_sent / CHANGE:.3f}x the change"
            ),
        )
    assert job.counters.bytes_read <= 1.1 * CHANGE
    assert job.counters.bytes_sent <= 1.1 * CHANGE
