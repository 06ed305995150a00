"""A virtual machine that sees this machine's files at their paths and runs one command, for what this kernel lacks.

QEMU by emulation (no /dev/kvm is needed), q35 with Debian's kernel: up in about 5 s. The host's root is the guest's,
read-only under a tmpfs, but for /tmp, /run and /dev, which are its own; a command's job is a directory that both may
write, /run/job there. udev names its disks. Its own QEMU answers QMP at the ports MONITORS, so that a program in the
guest plugs disks in and out as a cloud does; files of the job's directory may back them. Work of the CPU takes some
fifteen times as long as outside: boot once and run all tests in that boot. The power is cut at the end of the command.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from guest import Guest, prepared

__all__ = ["MONITORS", "PORTS", "Disk", "MachineFailed", "run"]

PORTS = 24  # PCIe slots for disks that come and go; each costs 60 ms of the boot. SCSI disks need none.
MONITORS = ("qmp", "qmp.cloud")  # in /dev/virtio-ports, each for one program: a test's own, a fake cloud's beside it

BOOT = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on "
    "8250.nr_uarts=1 cryptomgr.notests audit=0 apparmor=0 lpj=5000000 pci=noaer net.ifnames=0"
)


@dataclass(frozen=True)
class Disk:
    """A disk that is there when the machine boots: virtio-blk, which cuts its serial to 20 characters, or SCSI."""

    path: Path
    serial: str
    scsi: bool = False


class MachineFailed(Exception):
    """The guest did not boot, or did not come to the end of its command; the console is in the text."""


def run(
    argv: Sequence[str],
    places: Sequence[Path],
    job: Path,
    environment: Mapping[str, str],
    limit: float,
    disks: Sequence[Disk] = (),
) -> int:
    """Boot, run `argv` in the first of `places`, and return its exit status; its output is in `job`/output.

    The same `job` may be given to another boot: what the first left there is what the second finds. `places` are
    directories that the guest sees wherever they are, under /tmp too; `job` is the one both ends write.
    MachineFailed when the machine stops before, or `limit` seconds are over.
    """
    guest = prepared()
    (job / "status").unlink(missing_ok=True)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items() if name.isidentifier()]
    (job / "command").write_text("\n".join([*lines, f"cd {shlex.quote(str(places[0]))}", f"exec {shlex.join(argv)}"]))
    (job / "places").write_text("".join(f"{place}\n" for place in places))
    (job / "start").write_text(
        "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root OMA_GUEST=1\n"
        f"export OMA_JOB={shlex.quote(str(job))} OMA_PORTS={PORTS}\n"
        "/usr/lib/systemd/systemd-udevd --daemon 2>/dev/null\n"
        "udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=virtio-ports\n"
        "udevadm settle --timeout=30\n"
        "/bin/sh /run/job/command </dev/null >/run/job/output 2>&1\n"
        "echo $? >/run/job/status.new\n"
        "/bin/busybox mv /run/job/status.new /run/job/status\n"
        "echo b >/proc/sysrq-trigger\n"
    )
    with tempfile.NamedTemporaryFile(prefix="oma-console-") as console:
        ended = _qemu(guest, job, disks, console.name, limit)
        if not (job / "status").exists():
            told = [_end_of(Path(console.name)), _end_of(job / "output")]
            raise MachineFailed("\n".join([f"the machine {ended} before its command did", *told]))
    return int((job / "status").read_text())


def _end_of(path: Path) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-30:]) if path.exists() else ""


def _qemu(guest: Guest, job: Path, disks: Sequence[Disk], console: str, limit: float) -> str:
    """Run the machine to its end; what became of it, in words."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise MachineFailed("qemu-system-x86_64 is not installed: make setup installs it")
    argv = [program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35"]
    argv += ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-smp", "2"]
    argv += ["-m", "2048", "-kernel", str(guest.kernel), "-initrd", str(guest.initramfs)]
    argv += ["-append", BOOT, "-serial", f"file:{console}"]
    argv += [*_slots(), *_plugged(disks)]
    for tag, path, read_only in (("host", Path("/"), True), ("layer", guest.layer, True), ("job", job, False)):
        share = f"local,id={tag},path={path},security_model=none,multidevs=remap"
        argv += ["-fsdev", share + (",readonly=on" if read_only else "")]
        argv += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    # qemu ends with this process (setpriv, PR_SET_PDEATHSIG), however that ends.
    guarded = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with _monitors() as (options, ends):
        process = subprocess.Popen([*guarded, *options], stdin=subprocess.DEVNULL, **out, pass_fds=ends)
    try:
        told, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return f"took more than {limit:g} s: stopped"
    finally:
        process.kill()
        process.wait()
    return f"stopped (status {process.returncode}) {told.decode(errors='replace').strip()}"


@contextmanager
def _monitors() -> Iterator[tuple[list[str], list[int]]]:
    """QEMU's monitors, each joined to a port of the guest by a pair of sockets that QEMU inherits: options, sockets."""
    argv = ["-device", "virtio-serial-pci"]
    ends: list[socket.socket] = []
    try:
        for name in MONITORS:
            outside, inside = pair = socket.socketpair()
            ends += pair
            argv += ["-chardev", f"socket,id={name}.monitor,fd={outside.fileno()}"]
            argv += ["-mon", f"chardev={name}.monitor,mode=control"]
            argv += ["-chardev", f"socket,id={name}.port,fd={inside.fileno()}"]
            argv += ["-device", f"virtserialport,chardev={name}.port,name={name}"]
        yield argv, [end.fileno() for end in ends]
    finally:
        for end in ends:
            end.close()


def _slots() -> list[str]:
    """Where disks may be plugged in: PORTS root ports (port0, port1, …), eight functions a slot, and the bus scsi.0."""
    argv = ["-device", "virtio-scsi-pci,id=scsi"]
    for number in range(PORTS):
        where = f"addr=0x{0x10 + number // 8:x}.0x{number % 8:x}" + (",multifunction=on" if number % 8 == 0 else "")
        argv += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1},bus=pcie.0,{where}"]
    return argv


def _plugged(disks: Sequence[Disk]) -> list[str]:
    argv: list[str] = []
    for number, disk in enumerate(disks):
        argv += ["-blockdev", f"driver=raw,node-name=boot{number},file.driver=file,file.filename={disk.path}"]
        device = "scsi-hd,bus=scsi.0" if disk.scsi else "virtio-blk-pci"
        argv += ["-device", f"{device},drive=boot{number},serial={disk.serial}"]
    return argv
