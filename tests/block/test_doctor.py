"""What `omavol doctor` says of a machine: of this one, and of folders that stand for others."""

import json
import subprocess

import pytest
from benchmarks.servers import OMAVOL

from omavol.block.doctor import PIPES, RULES, State, examine

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """A machine that has everything; give paths other texts, or None to take one away."""

    def make(**changed):
        files = {
            "dev/fuse": "",
            "dev/vsock": "",
            "proc/sys/net/ipv4/tcp_available_ulp": "espintcp mptcp tls",
            "proc/sys/net/core/wmem_max": f"{MIB}",
            "proc/sys/fs/pipe-max-size": f"{MIB}",
            "proc/sys/fs/pipe-user-pages-soft": f"{PIPES}",
            **{f"etc/udev/rules.d/{name}": "" for name in RULES},
        }
        files |= {path.replace("__", "/"): text for path, text in changed.items()}
        for path, text in files.items():
            if text is not None:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_text(text + "\n")
        return {finding.name: finding for finding in examine(tmp_path)}

    return make


LOOKED_UP = ("FUSE", "vsock", "udev rules", "TLS of the kernel", "socket buffers", "pipe size", "pipe pages of a user")


def test_a_machine_with_everything_lacks_nothing(machine):
    found = machine()
    assert [found[name].state for name in LOOKED_UP] == [State.OK] * len(LOOKED_UP)
    assert [found[name].advice for name in LOOKED_UP] == [""] * len(LOOKED_UP)


@pytest.mark.parametrize(
    ("changed", "name", "state", "advice"),
    [
        ({"dev__fuse": None}, "FUSE", State.MISSING, "modprobe fuse"),
        ({"dev__vsock": None}, "vsock", State.MISSING, "modprobe vsock"),
        ({"proc__sys__net__ipv4__tcp_available_ulp": "mptcp"}, "TLS of the kernel", State.LESS, "modprobe tls"),
        (
            {"proc__sys__net__core__wmem_max": "212992"},
            *("socket buffers", State.LESS, "sysctl -w net.core.wmem_max=1048576"),
        ),
        ({"proc__sys__fs__pipe-max-size": "65536"}, "pipe size", State.LESS, "sysctl -w fs.pipe-max-size=1048576"),
        ({"proc__sys__fs__pipe-user-pages-soft": "1024"}, "pipe pages of a user", State.LESS, f"={PIPES}"),
        ({"proc__sys__fs__pipe-user-pages-soft": "0"}, "pipe pages of a user", State.OK, ""),
        ({"proc__sys__fs__pipe-max-size": None}, "pipe size", State.LESS, "fs.pipe-max-size"),
        ({"etc__udev__rules.d__59-oma-replicas.rules": None}, "udev rules", State.LESS, "deploy/README.md"),
        ({"proc__misc": "229 fuse"}, "device-mapper", State.LESS, "modprobe dm_mod"),
    ],
)
def test_what_is_missing_is_said_with_the_way_to_get_it(machine, changed, name, state, advice):
    finding = machine(**changed)[name]
    assert finding.state is state and advice in finding.advice and finding.needed_for


def test_the_command_shows_this_machine_in_words_and_json():
    shown = subprocess.run([OMAVOL, "doctor"], capture_output=True, text=True, timeout=30)
    told = subprocess.run([OMAVOL, "doctor", "--json"], capture_output=True, text=True, timeout=30)
    findings = json.loads(told.stdout)
    assert shown.returncode == told.returncode == (2 if any(each["state"] == "missing" for each in findings) else 0)
    assert len({each["name"] for each in findings}) == len(findings) >= 9
    for each in findings:
        assert each["name"] in shown.stdout and each["advice"] in shown.stdout
        assert bool(each["advice"]) == (each["state"] != "ok")
