"""Each faulty server fails the checks of its fault and no others; no check is without a mutant, or a reason."""

import mutants_contexts
import mutants_data
import mutants_status
import mutants_transmission
import pytest
from mutants import GOOD, MUTANTS

from omavol.conformance.clients.answers import Honest
from omavol.conformance.clients.honest import World
from omavol.conformance.clients.host import Host
from omavol.conformance.run import run
from omavol.conformance.server import Server
from omavol.conformance.survey import survey
from omavol.conformance.table import Group, chosen

assert mutants_contexts and mutants_transmission and mutants_data and mutants_status  # importing them fills the table
TIMEOUT = 0.5  # seconds; a faulty server that waits is waited for

# Why a check has no mutant.
REASONS = {
    "T": "the good server speaks no TLS; `omavol serve`, qemu-nbd and nbdkit do (test_conformance_peers, test_tls)",
    "extended": "the good server has no extended headers; `omavol serve` and qemu-nbd do (test_conformance_peers)",
    "X54": "a server in threads of this process cannot die of a client; nbdkit does (test_conformance_peers)",
    "H27-abort-and-gone": "as X54",
}


HANDSHAKE = (Group.GREETING, Group.OPTIONS, Group.INFO, Group.CONTEXTS, Group.OFFERS)


def judged(server, offers, rules=(), phases=None):
    checks = [check for check in chosen(rules) if not phases or (check.group in HANDSHAKE) in phases]
    with Host(server, World(offers), limit=5.0) as host:
        target = Server(host.uri, timeout=TIMEOUT * (8 if rules else 1))
        target.facts = survey(target)
        return {result.check.name: result for result in run(target, checks, write=True)}


def test_a_server_that_keeps_every_rule_fails_none():
    results = judged(Honest, GOOD)
    assert {name for name, result in results.items() if result.outcome == "fail"} == set()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_fails_its_checks_and_no_others(name):
    mutant = MUTANTS[name]
    groups = {check.name: check.group for check in chosen()}
    phases = {groups[fails] in HANDSHAKE for fails in mutant.fails}  # the other phase is left out: time
    results = judged(mutant.server, mutant.offers, mutant.rules, phases)
    failed = {check: result.came for check, result in results.items() if result.outcome == "fail"}
    assert set(failed) == mutant.fails, failed


def test_every_check_has_a_mutant_or_a_reason():
    seen = {check for mutant in MUTANTS.values() for check in mutant.fails}
    for check in chosen():
        reason = check.group in (Group.TLS, Group.EXTENDED) or check.rule in REASONS or check.name in REASONS
        assert check.name in seen or reason, f"{check.name} has neither a mutant nor a reason"
