"""`omavol conformance` as a person meets it: the table, mistakes in one line, the fields of the JSON."""

import subprocess

import pytest
from benchmarks.servers import OMAVOL
from judged import judge

from omavol.conformance.table import chosen


def run(*arguments):
    return subprocess.run([OMAVOL, "conformance", *arguments], capture_output=True, text=True, timeout=60)


def test_the_table_is_printed_without_a_server():
    lines = run("--list").stdout.splitlines()
    assert len(lines) == len(chosen())
    assert any(line.startswith("H16") and "states" in line and "NBD_OPT_INFO" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "give a URI, --server CMD or --client CMD"),
        (["nbd://localhost", "--client", "x {uri}"], "give a URI, --server CMD or --client CMD"),
        (["--rule", "Z9", "nbd://localhost"], "no rule matches"),
        (["http://localhost"], "is not an NBD URI"),
        (["nbd+unix:///?socket=/nowhere/at/all"], "No such file or directory"),
        (["--server", "false {socket}"], "ended before it listened: exit status 1"),
        (["--server", "/nowhere/at/all"], "No such file or directory"),
        (["--client", "nbdcopy"], "the command has no {uri} in it"),
        (["--client", "/nowhere/at/all {uri}", "--rule", "C2"], "No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, text):
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert text in line


def test_a_must_that_fails_is_status_1_and_a_should_only_when_strict():
    assert run("--client", "false {uri}", "--rule", "C16").returncode == 0, "no occasion: not offered"
    crash = ("--client", "sh -c 'kill -SEGV $$' {uri}")
    assert run(*crash, "--rule", "C16").returncode == 1
    assert run(*crash, "--rule", "C12").returncode == 0
    assert run(*crash, "--rule", "C12", "--strict").returncode == 1


def test_the_json_has_the_fields_of_its_document():
    told = judge("--server", f"{OMAVOL} serve --unix {{socket}} {{image}}", "--rule", "H16,X40,X7")
    assert list(told) == ["format", "document", "target", "server", "results", "summary", "ended", "status"]
    assert told["format"] == 1 and told["status"] == 0 and told["server"]["size"] == 40 << 20
    always = ["check", "rule", "tag", "experimental", "section", "sentence", "outcome"]
    assert [list(result)[:7] for result in told["results"]] == [always] * 3
    assert {result["rule"]: result["outcome"] for result in told["results"]}["X7"] == "not offered"
