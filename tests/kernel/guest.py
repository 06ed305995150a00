"""What the guest boots from: Debian's kernel, its modules, an initramfs, and programs that the host need not have.

All of it is fetched by apt, unpacked and kept in a cache; nothing is installed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Guest", "cache_home", "prepared"]

FORMAT = "4"  # of the cache; another number makes it anew
BUSYBOX = Path("/bin/busybox")
BOOT_MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
GUEST_MODULES = ("virtio_blk", "virtio_scsi", "sd_mod", "dm_mod", "loop", "nbd", "tls", "vsock_loopback")
# Only these parts of the kernel's modules are kept: the whole tree is 300 MB.
KEPT = (
    *("arch", "block", "crypto", "drivers/block", "drivers/char", "drivers/md", "drivers/scsi", "drivers/virtio", "fs"),
    *("lib", "mm", "net"),
)
# Laid over the host's root: what scans and names disks on a Debian machine, with the libraries that come with it.
PACKAGES = (
    *("kmod", "libkmod2", "udev", "dmsetup", "libdevmapper-event1.02.1", "lvm2", "mdadm"),
    *("libaio1", "libbsd0", "libedit2", "libmd0"),
)
USRMERGED = ("bin", "lib", "sbin")  # links into usr/ on the host

INIT = r"""#!/bin/busybox sh
B=/bin/busybox
$B mkdir -p /dev /proc /sys /host /modules /over /new
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
@INSMOD@
give_up() { echo "guest: $1" >/dev/console; $B poweroff -f; }
how=trans=virtio,version=9p2000.L,msize=512000
$B mount -t 9p -o ro,$how,cache=loose host /host || give_up "the host's root cannot be mounted"
$B mount -t 9p -o ro,$how,cache=loose layer /modules || give_up "the modules cannot be mounted"
$B mount -t tmpfs -o mode=755 tmpfs /over
$B mkdir /over/upper /over/work
$B mount -t overlay -o lowerdir=/modules:/host,upperdir=/over/upper,workdir=/over/work overlay /new \
    || give_up "no overlay"
for each in dev proc sys; do $B mount -o move /$each /new/$each; done
$B mkdir -p /new/dev/pts /new/dev/shm
$B mount -t devpts -o mode=620,ptmxmode=666 devpts /new/dev/pts
$B mount -t tmpfs tmpfs /new/dev/shm
$B ln -sf /proc/self/fd /new/dev/fd
$B mount -t tmpfs -o mode=755 tmpfs /new/run
$B mount -t tmpfs -o mode=1777 tmpfs /new/tmp
$B mkdir -p /new/run/lock /new/run/job
$B mount -t 9p -o $how,cache=none job /new/run/job || give_up "no job"
while read -r place; do  # what /new/tmp or /new/run hides of the host and the command needs
    [ -e "/new$place" ] && continue
    $B mkdir -p "/new$place" && $B mount -o bind "/host$place" "/new$place" || give_up "$place cannot be mounted"
done </new/run/job/places
$B ip link set lo up
$B hostname guest
exec $B switch_root /new /bin/busybox sh /run/job/start
"""


@dataclass(frozen=True)
class Guest:
    """Files for a boot: `layer` is laid over the host's root."""

    kernel: Path
    initramfs: Path
    layer: Path


def cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "oma"


def prepared() -> Guest:
    """The guest from the cache; made on the first call (some 20 s, a download of 70 MB)."""
    home = cache_home()
    cache = home / f"guest-{FORMAT}"
    home.mkdir(parents=True, exist_ok=True)
    with (home / "guest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cache.exists():
            work = Path(tempfile.mkdtemp(prefix="guest-", dir=home))
            try:
                _make(work)
                work.rename(cache)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
    return Guest(cache / "kernel", cache / "initramfs", cache / "layer")


def _run(*argv: object, **options) -> str:
    done = subprocess.run([str(arg) for arg in argv], capture_output=True, text=True, timeout=300, **options)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _make(work: Path) -> None:
    depends = _run("apt-cache", "depends", "linux-image-amd64")
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    _run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", package, cwd=work)
    (archive,) = work.glob("*.deb")
    unpacked = work / "unpacked"
    _run("dpkg-deb", "-x", archive, unpacked)
    archive.unlink()
    (image,) = (unpacked / "boot").glob("vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    _kernel(image, work / "kernel")
    modules = work / "layer/usr/lib/modules" / release
    for part in KEPT:
        source = unpacked / "lib/modules" / release / "kernel" / part
        if source.exists():
            shutil.copytree(source, modules / "kernel" / part)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(unpacked / "lib/modules" / release / name, modules)
    shutil.rmtree(unpacked)
    layer = work / "layer"
    _programs(work, layer)
    base = work / "base"  # depmod looks under lib/, the host has lib as a link
    base.mkdir()
    (base / "lib").symlink_to(layer / "usr/lib")
    (base / "depmod").symlink_to(layer / "usr/bin/kmod")  # which does what it is called
    libraries = {"LD_LIBRARY_PATH": str(layer / "usr/lib/x86_64-linux-gnu")}
    _run(base / "depmod", "-b", base, release, env={**os.environ, **libraries})
    shutil.rmtree(base)
    (work / "initramfs").write_bytes(_initramfs(modules))


def _programs(work: Path, layer: Path) -> None:
    """Unpack PACKAGES into the layer, as a host whose /bin, /lib and /sbin are links sees them."""
    place = work / "packages"
    place.mkdir()
    _run("apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", *PACKAGES, cwd=place)
    for archive in sorted(place.glob("*.deb")):
        _run("dpkg-deb", "-x", archive, place / "root")
    for name in USRMERGED:
        old = place / "root" / name
        if old.exists():
            shutil.copytree(old, place / "root/usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(old)
    shutil.rmtree(place / "root/usr/share")
    shutil.copytree(place / "root", layer, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(place)


def _kernel(image: Path, into: Path) -> None:
    """The ELF kernel inside a bzImage (boot protocol: setup_sects, payload_offset, payload_length): boots at once."""
    data = image.read_bytes()
    start = ((data[0x1F1] or 4) + 1) * 512 + int.from_bytes(data[0x248:0x24C], "little")
    payload = data[start : start + int.from_bytes(data[0x24C:0x250], "little")]
    if not payload.startswith(b"\xfd7zXZ\0"):
        into.write_bytes(data)
        return
    import lzma

    into.write_bytes(lzma.LZMADecompressor().decompress(payload))


def _load_order(modules: Path, wanted: tuple[str, ...]) -> list[str]:
    """Paths of the modules and all they depend on, what is needed first in front."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.partition(".ko")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for need in needs[path]:
            add(need)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:  # what is not there is built in
            add(by_name[name])
    return order


def _initramfs(modules: Path) -> bytes:
    order = _load_order(modules, BOOT_MODULES + GUEST_MODULES)
    insmod = "\n".join(f"$B insmod /m/{number}.ko || echo 'guest: no {path}'" for number, path in enumerate(order))
    files = [("bin", stat.S_IFDIR, b""), ("m", stat.S_IFDIR, b""), ("bin/busybox", stat.S_IFREG, BUSYBOX.read_bytes())]
    files += [(f"m/{number}.ko", stat.S_IFREG, (modules / path).read_bytes()) for number, path in enumerate(order)]
    files.append(("init", stat.S_IFREG, INIT.replace("@INSMOD@", insmod).encode()))
    return _cpio(files)


def _cpio(files: list[tuple[str, int, bytes]]) -> bytes:
    """An archive in the format that the kernel unpacks (newc, initramfs buffer format)."""
    out = bytearray()
    for inode, (name, kind, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (inode, kind | 0o755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)
