"""The checks of TLS, on peers that speak it: forced, at the client's choice, and not at all."""

import shlex

import pytest
from judged import failures, judge

from peers import INSTALLED


@pytest.fixture(scope="module")
def certificates(pki):
    return pki.server


def tls_outcomes(told):
    return {result["check"]: result["outcome"] for result in told["results"] if result["rule"].startswith("T")}


def nbdkit(mode, certificates):
    return shlex.join(
        INSTALLED.nbdkit("-U", "{socket}", f"--tls={mode}", f"--tls-certificates={certificates}", "file", "{image}")
    )


def qemu_nbd(certificates):
    credentials = f"tls-creds-x509,id=tls,endpoint=server,dir={certificates},verify-peer=off"
    settings = ("-t", "-e", "8", "-f", "raw", "-k", "{socket}", "--object", credentials, "--tls-creds", "tls")
    return shlex.join(INSTALLED.command("qemu-nbd", *settings, "{image}"))


def test_a_server_that_forces_tls_is_judged_inside_it(certificates):
    told = judge("--tls", "--server", nbdkit("require", certificates))
    assert told["server"]["tls"] == "FORCEDTLS"
    outcomes = tls_outcomes(told)
    assert outcomes["T4-everything-demands-tls"] == outcomes["T5-export-name-without-tls"] == "pass"
    assert {check for check, outcome in outcomes.items() if outcome == "fail"} == {"T17-no-tls-1-1"}  # GnuTLS 3.7
    assert [result["outcome"] for result in told["results"] if result["rule"] == "X24"] == ["pass"]


def test_a_server_that_leaves_tls_to_the_client_is_judged_by_other_rules(certificates):
    told = judge("--section", "TLS", "--server", nbdkit("on", certificates))
    assert told["server"]["tls"] == "SELECTIVETLS"
    outcomes = tls_outcomes(told)
    assert outcomes["T8-only-entering-demands-tls"] == outcomes["T11-nothing-survives-into-tls"] == "pass"
    assert outcomes["T4-everything-demands-tls"] == "not offered"
    assert set(failures(told)) == {"T17-no-tls-1-1"}


def test_qemu_demands_tls_of_abort_and_mostly_does_not_shut_it_down(certificates):
    told = judge("--section", "TLS", "--tls", "--server", qemu_nbd(certificates))
    failed = set(failures(told)) - {"T18-disc-shuts-tls-down"}  # once in some dozens of runs it was right
    assert failed == {"T4-abort-without-tls", "T17-no-tls-1-1"}


def test_a_server_without_tls_refuses_it():
    told = judge("--section", "TLS", "--server", shlex.join(INSTALLED.nbdkit("-U", "{socket}", "null", "1M")))
    assert tls_outcomes(told)["T3-starttls-is-refused"] == tls_outcomes(told)["T3-nothing-demands-tls"] == "pass"
    assert failures(told) == {}
