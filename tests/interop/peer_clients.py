"""The clients of others, each a function of a feature that has to succeed on our server, or is not offered."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import our_client
from disks import LARGE, MAP, MIB, SIZE, WRITTEN, ZEROED, Disk, digest, run, serving, storage_daemon
from security import Security

from peers import Peers

Cell = Callable[[Peers, Disk, Path, Security, str], None]

LIBNBD = """
import hashlib, json, nbd, sys
feature, uri, payload = sys.argv[1:4]
numbers = [int(text) for text in sys.argv[4:]]
written, (zeroed, zeroes), (large, length) = numbers[0], numbers[1:3], numbers[3:5]
h = nbd.NBD()
h.set_uri_allow_local_file(True)
if feature == "plain":
    h.set_request_structured_replies(False)
if feature == "list":
    h.set_opt_mode(True)
h.add_meta_context("base:allocation")
h.connect_uri(uri)
assert h.get_tls_negotiated() == uri.startswith("nbds")
out = None
if feature == "list":
    out = []
    h.opt_list(lambda name, description: out.append(name))
    h.opt_abort()
elif feature in ("read", "plain", "extended"):
    assert feature != "plain" or not h.get_structured_replies_negotiated()
    assert feature != "extended" or h.get_extended_headers_negotiated()
    data = b"".join(h.pread(1 << 20, at) for at in range(0, h.get_size(), 1 << 20))
    out = hashlib.sha256(data).hexdigest()
elif feature == "large":
    out = hashlib.sha256(h.pread(length, large)).hexdigest()
elif feature == "write":
    data = open(payload, "rb").read()
    half = len(data) // 2
    h.pwrite(data[:half], written)
    h.pwrite(data[half:], written + half, nbd.CMD_FLAG_FUA)
    h.flush()
elif feature == "trim":
    h.trim(zeroes, zeroed, nbd.CMD_FLAG_FUA)
elif feature == "zero":
    h.zero(zeroes, zeroed, nbd.CMD_FLAG_NO_HOLE)
    h.flush()
elif feature == "status":
    out, at = [], 0
    while at < h.get_size():
        told = []
        h.block_status(h.get_size() - at, at, lambda name, start, entries, error: told.extend(entries))
        for size, state in zip(told[::2], told[1::2]):
            out.append((at, size, state))
            at += size
if feature != "list":
    h.shutdown()
print(json.dumps(out))
"""


def outcome(disk: Disk, feature: str, act: Callable[[], object]) -> None:
    """Do it, and compare the whole disk with what it must hold then."""
    expected = {"write": disk.with_payload, "trim": disk.with_zeroes, "zero": disk.with_zeroes}[feature]()
    act()
    assert digest(disk.content) == expected


def libnbd(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    uri, payload = security.uri(path), disk.place / "payload"
    payload.write_bytes(disk.payload)
    numbers = (WRITTEN[0], *ZEROED, *LARGE)

    def act() -> object:
        return json.loads(run(peers.python("-c", LIBNBD, feature, uri, payload, *numbers), peers.environment()))

    if feature in ("write", "trim", "zero"):
        outcome(disk, feature, act)
        return
    told = act()
    if feature == "status":
        assert [tuple(extent) for extent in told] == MAP
    elif feature == "list":
        assert told == [""]
    else:
        content = disk.content
        assert told == digest(content[LARGE[0] : sum(LARGE)] if feature == "large" else content)


def nbdcopy(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    uri, copy = security.uri(path), disk.place / "copy"
    if feature in ("read", "large"):
        size = ["--request-size=33554432"] if feature == "large" else []
        run(peers.command("nbdcopy", *size, uri, copy), peers.environment())
        assert digest(copy.read_bytes()) == digest(disk.content)
    else:
        copy.write_bytes(disk.content[::-1])
        run(peers.command("nbdcopy", "--flush", copy, uri), peers.environment())
        assert digest(disk.content) == digest(copy.read_bytes())


def nbdinfo(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    uri = security.uri(path)
    if feature == "status":
        told = json.loads(run(peers.command("nbdinfo", "--map", "--json", uri), peers.environment()))
        assert [(each["offset"], each["length"], each["type"]) for each in told] == MAP
    else:
        argv = peers.command("nbdinfo", "--list", "--json", "--no-content", uri)
        told = json.loads(run(argv, peers.environment()))
        assert [export["export-name"] for export in told["exports"]] == [""]
        assert feature != "extended" or told["extended"]


def qemu_img(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    copy, objects = disk.place / "copy", security.objects("client")
    if feature == "read":
        argv = peers.command("qemu-img", "convert", *objects, "-O", "raw", *security.disk(path), copy)
        run(argv, peers.environment())
        assert digest(copy.read_bytes()) == digest(disk.content)
    elif feature == "write":
        copy.write_bytes(disk.content[::-1])
        *options, image = security.disk(path, opts="--target-image-opts", raw="-O")
        argv = peers.command("qemu-img", "convert", *objects, "-n", "-f", "raw", *options, copy, image)
        run(argv, peers.environment())
        assert digest(disk.content) == digest(copy.read_bytes())
    else:
        argv = peers.command("qemu-img", "map", "--output=json", *objects, *security.disk(path))
        told = json.loads(run(argv, peers.environment()))
        assert [(each["start"], each["length"], 0 if each["data"] else 3) for each in told] == MAP


def qemu_io(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    offset, length = ZEROED
    payload = disk.place / "payload"
    payload.write_bytes(disk.payload)
    commands = {
        "read": [f"read -v {MIB} 512"],
        "write": [f"write -f -s {payload} {WRITTEN[0]} {WRITTEN[1]}", "flush"],
        "trim": [f"discard {offset} {length}", "flush"],
        "zero": [f"write -z {offset} {length}", "flush"],
        "large": [f"read {LARGE[0]} {LARGE[1]}"],
    }
    script = [part for text in commands[feature] for part in ("-c", text)]
    *options, image = security.disk(path)
    argv = peers.command("qemu-io", *security.objects("client"), *options, *script, image)
    if feature in ("read", "large"):
        said = run(argv, peers.environment())
        if feature == "large":
            assert f"read {LARGE[1]}/{LARGE[1]} bytes" in said
        else:
            dumped = re.findall(r"^[0-9a-f]{8}:  ((?:[0-9a-f]{2} )+)", said, re.MULTILINE)
            assert bytes.fromhex("".join(dumped)) == disk.content[MIB : MIB + 512]
    else:
        outcome(disk, feature, lambda: run(argv, peers.environment()))


def fio(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    modes = {
        "read": ["--rw=randread", "--bs=64k"],
        "write": [
            "--rw=randwrite",
            "--bs=64k",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--end_fsync=1",
        ],
        "trim": ["--rw=trim", "--bs=1M", f"--offset={ZEROED[0]}", f"--size={ZEROED[1]}"],
        "large": ["--rw=read", "--bs=32M"],
    }
    size = [] if feature == "trim" else [f"--size={LARGE[1] if feature == 'large' else SIZE}"]
    uri = f"--uri={security.uri(path)}"
    common = ["--name=cell", "--ioengine=nbd", uri, "--iodepth=16", "--output-format=json", "--thread"]
    argv = peers.command("fio", *common, *size, *modes[feature])

    def act() -> None:
        said = run(argv, peers.environment())
        (job,) = json.loads(said[said.index("{") :])["jobs"]
        assert job["error"] == 0
        assert job["write" if feature == "write" else "trim" if feature == "trim" else "read"]["total_ios"]

    outcome(disk, feature, act) if feature == "trim" else act()


def nbd_client(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
    said = run(["/usr/sbin/nbd-client", "-l", "-u", path, *security.nbd_client()], peers.environment())
    assert "[0]" in said or "Negotiation" in said, said


def _through(start: Callable[[Peers, Path, Security, Path], list[str]]) -> Cell:
    """A peer that is our client and serves what it gets: our client at its other side shows what came through."""

    def cell(peers: Peers, disk: Disk, path: Path, security: Security, feature: str) -> None:
        through = disk.place / "through"
        with serving(start(peers, path, security, through), through, peers.environment()):
            our_client.DOES[feature](f"nbd+unix:///?socket={through}", disk)

    return cell


def _daemon(peers: Peers, path: Path, security: Security, through: Path) -> list[str]:
    node = f"{security.node(path)},node-name=n,discard=unmap"
    return storage_daemon(peers, node, through, objects=security.objects("client"))


def _nbdkit(peers: Peers, path: Path, security: Security, through: Path) -> list[str]:
    if security.kind == "plain":
        return peers.nbdkit("-U", through, "nbd", f"uri={security.uri(path)}")
    return peers.nbdkit("-U", through, "nbd", f"socket={path}", *security.nbdkit_client())


CLIENTS: Mapping[str, Cell] = {
    "libnbd": libnbd,
    "nbdcopy": nbdcopy,
    "nbdinfo": nbdinfo,
    "qemu-img": qemu_img,
    "qemu-io": qemu_io,
    "qemu-storage-daemon": _through(_daemon),
    "nbdkit": _through(_nbdkit),
    "fio": fio,
    "nbd-client": nbd_client,
}
