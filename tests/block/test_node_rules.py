"""What is to be done about a volume's node: the whole product of what may be, and where it leads."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from omavol.block.names import RULES, NodeFacts, NodeStep, Table, node_step

EVERY = [
    NodeFacts(wanted, device, taken, table, misnamed, suspended)
    for wanted, device, taken, table, misnamed, suspended in itertools.product(
        (True, False), (True, False), (True, False), Table, (True, False), (True, False)
    )
    if table is not Table.NO_NODE or not (misnamed or suspended)
    if device or table is not Table.RIGHT
    if misnamed or table is Table.NO_NODE or not taken  # one name, one node
]


def after(facts: NodeFacts, step: NodeStep) -> NodeFacts:
    """What is true when a step was done."""
    if step is NodeStep.CREATE:
        return replace(facts, table=Table.RIGHT)
    if step is NodeStep.RENAME:
        return replace(facts, misnamed=False)
    if step is NodeStep.RESUME:
        return replace(facts, suspended=False)
    if step is NodeStep.SWAP:
        return replace(facts, table=Table.RIGHT, suspended=False)
    if step is NodeStep.LOSE:
        return replace(facts, table=Table.FAILING, suspended=False)
    return replace(facts, table=Table.NO_NODE, misnamed=False, suspended=False)


@pytest.mark.parametrize("facts", EVERY, ids=str)
def test_every_state_leads_to_the_wanted_one_within_three_steps(facts):
    steps = []
    while (step := node_step(facts).step) not in (NodeStep.NOTHING, NodeStep.REFUSE):
        steps.append(step)
        facts = after(facts, step)
        assert len(steps) <= 3, steps
    if step is NodeStep.REFUSE:
        assert facts.taken and facts.wanted and facts.device
    elif not facts.wanted:
        assert facts.table is Table.NO_NODE
    elif facts.device:
        assert facts.table is Table.RIGHT and not facts.misnamed and not facts.suspended
    else:
        assert facts.table in (Table.NO_NODE, Table.FAILING) and not facts.suspended


def test_every_rule_is_met():
    met = {node_step(facts).reason for facts in EVERY}
    assert met == {rule.reason for rule in RULES}


def test_a_name_that_somebody_else_has_is_never_touched():
    touching = {NodeStep.CREATE, NodeStep.RENAME, NodeStep.SWAP}
    assert not [facts for facts in EVERY if facts.taken and node_step(facts).step in touching]
