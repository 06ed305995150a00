"""`omavol info` and `omavol map` say what nbdinfo says, in its words, JSON and exit codes."""

import json
import re
import subprocess
import sys

import pytest
from benchmarks.servers import OMAVOL, wait_for_socket
from click.testing import CliRunner

from omavol.cli import info
from omavol.cli import map as map_command
from peers import INSTALLED, NEWEST, Peers

RUNNER = CliRunner()


def ours(command, *arguments: str):
    return RUNNER.invoke(command, list(arguments))


def theirs(*arguments: str, peers: Peers = INSTALLED) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        peers.command("nbdinfo", *arguments), env=peers.environment(), capture_output=True, text=True, timeout=20
    )


def as_once(text: str) -> str:
    """Our text without what nbdinfo learned to say after Debian 12's version."""
    text = re.sub(r"\tcan_block_status_payload: .*\n", "", text)
    return re.sub(r"(\tblock_size_\w+: \d+) \(\w+\)", r"\1", text)


SERVERS = {
    "a file": ["file", "{image}"],
    "read-only": ["-r", "file", "{image}"],
    "simple replies": ["--no-sr", "file", "{image}"],
    "not fixed": ["--mask-handshake=0", "file", "{image}"],
    "block sizes": [
        *("--filter=blocksize-policy", "file", "{image}"),
        *("blocksize-minimum=512", "blocksize-preferred=4k", "blocksize-maximum=1M"),
    ],
    "nothing": ["null", "0"],
    "an odd size": ["null", "12345"],
}


@pytest.fixture(params=SERVERS)
def server(request, nbdkit, image) -> str:
    return nbdkit(*(argument.format(image=image) for argument in SERVERS[request.param]))


def test_info_says_what_nbdinfo_says(server):
    assert as_once(ours(info.command, server).stdout) == theirs("--no-content", server).stdout
    told = json.loads(ours(info.command, "--json", server).stdout)
    assert told.pop("extended") is False
    assert told["exports"][0].pop("can_block_status_payload") is False
    assert told == json.loads(theirs("--json", "--no-content", server).stdout)
    assert ours(info.command, "--size", server).stdout == theirs("--size", server).stdout


def test_info_lists_what_nbdinfo_lists(server):
    told, known = ours(info.command, "--list", server), theirs("--list", server)
    assert (as_once(told.stdout), told.exit_code) == (known.stdout, known.returncode)


@pytest.mark.parametrize("question", ["--is", "--can"])
def test_info_answers_yes_no_and_error_as_nbdinfo_does(server, question):
    names = {"--is": ["read-only", "rotational", "tls"]}.get(
        question, ["cache", "connect", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write", "zero"]
    )
    opposite = {"--is": "--isnt", "--can": "--cannot"}[question]
    for name in [*names, *(["structured-reply"] if question == "--can" else []), "fly"]:
        told, known = ours(info.command, question, name, server), theirs(question, name, server)
        assert (name, told.exit_code, told.stdout) == (name, known.returncode, "")
        answer = ours(info.command, opposite, name, server).exit_code
        assert (name, answer) == (name, {0: 2, 2: 0, 1: 1}[known.returncode])


def test_map_shows_what_nbdinfo_shows(server):
    for more in ([], ["--totals"]):
        told, known = ours(map_command.command, *more, server), theirs("--map", *more, server)
        assert (told.stdout, told.exit_code) == (known.stdout, known.returncode)
    if not known.returncode:
        told, known = ours(map_command.command, "--json", server), theirs("--map", "--json", server)
        assert json.loads(told.stdout) == json.loads(known.stdout)


def test_totals_in_json_have_nbdinfos_shape(nbdkit, image):
    rows = json.loads(ours(map_command.command, "--json", "--totals", nbdkit("file", str(image))).stdout)
    assert rows == [
        {"size": 1 << 20, "percent": 12.5, "type": 0, "description": "data"},
        {"size": 7 << 20, "percent": 87.5, "type": 3, "description": "hole,zero"},
    ]


def test_a_qemu_server_with_names_and_a_description(qemu_nbd, image):
    uri = qemu_nbd("-f", "raw", "-r", "-D", "the 1st disk", str(image), export="disk%20one")
    uri = uri.replace("%20", "%2520")  # qemu-nbd takes the name as it is
    for more in ([], ["--list"]):
        known = theirs("--no-content", *more, uri)
        assert as_once(ours(info.command, *more, uri).stdout) == known.stdout
        assert "the 1st disk" in known.stdout


def test_a_file_is_mapped_without_a_server(image):
    told = ours(map_command.command, str(image))
    assert told.stdout.splitlines() == [
        "         0     1048576    3  hole,zero",
        "   1048576     1048576    0  data",
        "   2097152     6291456    3  hole,zero",
    ]
    assert [row["length"] for row in json.loads(ours(map_command.command, "--json", str(image)).stdout)] == [
        1 << 20,
        1 << 20,
        6 << 20,
    ]


def test_an_empty_file_has_an_empty_map(folder):
    (folder / "empty").touch()
    assert ours(map_command.command, str(folder / "empty")).stdout == ""
    assert json.loads(ours(map_command.command, "--json", str(folder / "empty")).stdout) == []
    assert ours(map_command.command, "--totals", str(folder / "empty")).exit_code == 0


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (info.command, ["nbds://localhost:1"], "cannot connect to localhost port 1"),
        (info.command, ["localhost"], "not an NBD URI"),
        (
            info.command,
            ["nbd+unix:///?socket=/tmp/nothing-listens-here"],
            "cannot connect to /tmp/nothing-listens-here",
        ),
        (info.command, ["--list", "--size", "nbd://localhost"], "exclude"),
        (info.command, ["--is", "round", "nbd://localhost"], "--is round"),
        (info.command, [], "Missing argument"),
        (info.command, ["--colour", "nbd://localhost"], "No such option"),
        (info.command, ["--timeout", "nan", "nbd://localhost"], "seconds"),
        (info.command, ["nbd://" + "x" * 70], "no name of a host"),
        (map_command.command, ["--timeout", "-1", "nbd://localhost"], "seconds"),
        (map_command.command, ["--context", "x" * 5000, "nbd://localhost"], "4096 bytes"),
        (map_command.command, ["--context", "\udcff", "nbd://localhost"], "4096 bytes"),
        (map_command.command, ["/nothing/here"], "No such file"),
        (map_command.command, ["/tmp"], "neither a file nor a block device"),
        (map_command.command, ["--context", "qemu:x", "/etc/passwd"], "no meta context"),
        (map_command.command, ["nbds://localhost:1"], "cannot connect to localhost port 1"),
    ],
)
def test_a_failure_is_one_line_and_status_1(command, arguments, words):
    told = ours(command, *arguments)
    assert (told.exit_code, told.stdout) == (1, "")
    assert words in told.stderr
    assert told.stderr.count("\n") == 1


def test_an_unknown_export_and_an_unknown_context_are_status_1(qemu_nbd, image):
    uri = qemu_nbd("-f", "raw", "-r", str(image), export="web01")
    told = ours(info.command, uri.replace("web01", "nope"))
    assert (told.exit_code, told.stderr.count("\n")) == (1, 1)
    assert "no such export" in told.stderr
    told = ours(map_command.command, "--context", "qemu:dirty-bitmap:x", uri)
    assert (told.exit_code, "does not support" in told.stderr) == (1, True)


@pytest.fixture
def ours_served(folder, image):
    """omavol serve of the image, which speaks extended headers; its URI."""
    path = folder / "o"
    with subprocess.Popen([OMAVOL, "serve", "--unix", path, image], stdout=subprocess.DEVNULL) as process:
        wait_for_socket(path, process)
        yield f"nbd+unix:///?socket={path}"
        process.terminate()


def test_extended_headers_are_shown_as_nbdinfo_shows_them(ours_served):
    """But for can_block_status_payload: nbdinfo selects no context, and without one it is not offered (H50)."""
    told, known = ours(info.command, ours_served), theirs("--no-content", ours_served, peers=NEWEST)
    assert "using extended packets" in known.stdout
    payload = "\tcan_block_status_payload: "
    assert payload + "true" in told.stdout
    assert told.stdout.replace(payload + "true", payload + "false") == known.stdout
    told, known = ours(info.command, "--json", ours_served), theirs("--json", "--no-content", ours_served, peers=NEWEST)
    said = json.loads(told.stdout)
    assert said["extended"] is True
    said["exports"][0]["can_block_status_payload"] = False
    assert said == json.loads(known.stdout)
    for name in ("extended", "extended-headers", "structured-reply"):
        assert ours(info.command, "--can", name, ours_served).exit_code == 0
    assert ours(map_command.command, ours_served).stdout == theirs("--map", ours_served, peers=NEWEST).stdout


def test_several_contexts_are_shown_under_their_names(qemu_nbd, folder):
    disk = str(folder / "disk.qcow2")
    for made in (
        ["qemu-img", "create", "-q", "-f", "qcow2", disk, "8M"],
        ["qemu-img", "bitmap", "--add", disk, "today"],
        ["qemu-io", "-f", "qcow2", "-c", "write 0 1M", disk],
    ):
        subprocess.run(made, check=True, capture_output=True)
    uri = qemu_nbd("-r", "-f", "qcow2", "-B", "today", disk, export="web01")
    bitmap = "qemu:dirty-bitmap:today"
    told = ours(map_command.command, "--all", "--totals", uri).stdout
    assert told.splitlines() == [
        "base:allocation:",
        "   1048576  12.5%   0 data",
        "   7340032  87.5%   3 hole,zero",
        f"{bitmap}:",
        "   7340032  87.5%   0 clean",
        "   1048576  12.5%   1 dirty",
    ]
    asked = ("--context", bitmap, "--context", "base:allocation")
    said = json.loads(ours(map_command.command, *asked, "--json", uri).stdout)
    assert list(said) == [bitmap, "base:allocation"]
    assert [row["length"] for row in said[bitmap]] == [1 << 20, 7 << 20]
    alone = json.loads(ours(map_command.command, "--context", bitmap, "--json", uri).stdout)
    assert alone == said[bitmap]
    every = json.loads(ours(map_command.command, "--all", "--json", uri).stdout)
    assert {bitmap, "base:allocation"} <= set(every)


def test_the_commands_are_where_the_command_line_looks(image):
    told = subprocess.run(
        [sys.executable, "-c", "from omavol.cli import main; main()", "map", "--totals", str(image)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert told.stdout.startswith("   1048576  12.5%   0 data")
