"""`omavol serve` passes every rule it can be judged by: read-only here, writable in test_conformance_peers."""

import subprocess

import pytest
from benchmarks.servers import OMAVOL
from judged import failures, judge

SERVE = f"{OMAVOL} serve --unix {{socket}}"


def test_our_read_only_server_fails_no_rule():
    told = judge("--server", f"{SERVE} --read-only {{image}}")
    assert failures(told) == {}
    assert told["status"] == 0 and told["ended"] is None


# What the document says of each mode alone; every other rule of TLS is for both.
FORCED = {"T4-everything-demands-tls", "T4-abort-without-tls", "T5-export-name-without-tls"}
SELECTIVE = {"T8-only-entering-demands-tls", "T11-nothing-survives-into-tls"}
WITHOUT = {"T3-starttls-is-refused", "T3-nothing-demands-tls"}


@pytest.mark.parametrize(
    ("mode", "told_as", "inside", "not_offered"),
    [
        ("require", "FORCEDTLS", ["--tls"], SELECTIVE | WITHOUT),
        ("on", "SELECTIVETLS", ["--tls"], FORCED | WITHOUT),
        ("on", "SELECTIVETLS", [], FORCED | WITHOUT),
    ],
    ids=["forced", "selective, inside", "selective, plain"],
)
def test_our_server_with_tls_fails_no_rule_and_every_rule_of_tls_is_judged(pki, mode, told_as, inside, not_offered):
    told = judge(*inside, "--server", f"{SERVE} --tls {mode} --tls-certificates {pki.server} {{image}}")
    assert failures(told) == {}
    assert (told["status"], told["ended"], told["server"]["tls"]) == (0, None, told_as)
    of_tls = {result["check"]: result["outcome"] for result in told["results"] if result["rule"].startswith("T")}
    assert not_offered < set(of_tls)
    assert of_tls == {check: "not offered" if check in not_offered else "pass" for check in of_tls}


def test_contexts_of_another_export_are_judged_where_there_is_another():
    told = judge("--server", f"{SERVE} {{image}} other={{image}}", "--rule", "H42")
    assert [result["outcome"] for result in told["results"]] == ["pass"]


def test_without_leave_nothing_is_written(tmp_path):
    """A URI is somebody's server: the checks that write are skipped, and the file is not touched."""
    image, socket = tmp_path / "image", f"/tmp/oma-conformance-{tmp_path.name}"
    image.write_bytes(bytes(range(256)) * 4096)
    process = subprocess.Popen([OMAVOL, "serve", "--unix", socket, str(image)], stdout=subprocess.PIPE, text=True)
    try:
        uri = process.stdout.readline().strip()
        before = image.stat().st_mtime_ns  # opening it may have changed that
        told = judge(uri)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert {result["outcome"] for result in told["results"] if result["rule"] == "X38"} == {"skipped"}
    assert failures(told) == {}
    assert image.stat().st_mtime_ns == before
