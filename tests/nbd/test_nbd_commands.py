"""`omavol info` and `omavol map` say what nbdinfo says, in its words, JSON and exit codes."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from omavol.cli import info
from omavol.cli import map as map_command

RUNNER = CliRunner()


def ours(command, *arguments: str):
    return RUNNER.invoke(command, list(arguments))


def theirs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nbdinfo", *arguments], capture_output=True, text=True, timeout=20)


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
    assert ours(info.command, server).stdout == theirs("--no-content", server).stdout
    told, known = ours(info.command, "--json", server), theirs("--json", "--no-content", server)
    assert json.loads(told.stdout) == json.loads(known.stdout)
    assert ours(info.command, "--size", server).stdout == theirs("--size", server).stdout


def test_info_lists_what_nbdinfo_lists(server):
    told, known = ours(info.command, "--list", server), theirs("--list", server)
    assert (told.stdout, told.exit_code) == (known.stdout, known.returncode)


@pytest.mark.parametrize("question", ["--is", "--can"])
def test_info_answers_yes_no_and_error_as_nbdinfo_does(server, question):
    names = {"--is": ["read-only", "rotational", "tls"]}.get(
        question, ["cache", "connect", "df", "fast-zero", "flush", "fua", "multi-conn", "read", "trim", "write", "zero"]
    )
    for name in [*names, *(["structured-reply"] if question == "--can" else []), "fly"]:
        told, known = ours(info.command, question, name, server), theirs(question, name, server)
        assert (name, told.exit_code, told.stdout) == (name, known.returncode, "")


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
        assert ours(info.command, *more, uri).stdout == known.stdout
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
        (info.command, ["nbds://localhost"], "TLS comes in a later release"),
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
        (map_command.command, ["nbds://localhost"], "TLS comes in a later release"),
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


def test_the_commands_are_where_the_command_line_looks(image):
    told = subprocess.run(
        [sys.executable, "-c", "from omavol.cli import main; main()", "map", "--totals", str(image)],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert told.stdout.startswith("   1048576  12.5%   0 data")
