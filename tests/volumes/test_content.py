"""What a volume holds after each event: the whole table, and the laws it keeps."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omavol.schema.volumes import AtPoint, Base, ProofLevel, Torn, UnknownContent
from omavol.volumes.content import (
    ChangedOutside,
    EndedUnproved,
    Held,
    Mode,
    Opened,
    Proved,
    base_of,
    choose_mode,
    content_after,
)

AT = AtPoint(point="p1", proof=ProofLevel.DIGEST)
TORN = Torn(since_session="s", job="j", base="p1")
TORN_BASELESS = Torn(since_session="s", job="j", base=None)
TORN_BY_ANOTHER = Torn(since_session="other", job="k", base="p1")
CONTENTS = {
    "unknown": UnknownContent(),
    "at": AT,
    "torn": TORN,
    "baseless": TORN_BASELESS,
    "another's": TORN_BY_ANOTHER,
}
FULL, INCREMENTAL = Mode("full", ""), Mode("incremental", "")
FORMER = Held(AT, 3)
EVENTS = {
    "opened full": Opened("n", "j", FULL),
    "opened incremental": Opened("n", "j", INCREMENTAL),
    "proved": Proved("s", "p2", ProofLevel.DIGEST),
    "ended, nothing written": EndedUnproved("s", FORMER, wrote_nothing=True),
    "ended, written": EndedUnproved("s", FORMER, wrote_nothing=False),
    "changed outside": ChangedOutside("it was lost"),
}
NEW_FULL = Torn(since_session="n", job="j", base=None)
NEW_P1 = Torn(since_session="n", job="j", base="p1")
P2 = AtPoint(point="p2", proof=ProofLevel.DIGEST)
SAME = "same"
# content before -> event -> content after; the generation grows with "changed outside" alone
TABLE = {
    "unknown": (NEW_FULL, NEW_FULL, SAME, SAME, SAME),
    "at": (NEW_FULL, NEW_P1, SAME, SAME, SAME),
    "torn": (NEW_FULL, NEW_P1, P2, AT, SAME),
    "baseless": (NEW_FULL, NEW_FULL, P2, AT, SAME),
    "another's": (NEW_FULL, NEW_P1, SAME, SAME, SAME),
}


@pytest.mark.parametrize(("before", "event"), list(itertools.product(CONTENTS, list(EVENTS)[:5])))
def test_content_follows_the_table(before, event):
    wanted = TABLE[before][list(EVENTS).index(event)]
    after = content_after(Held(CONTENTS[before], 3), EVENTS[event])
    assert after == Held(CONTENTS[before] if wanted == SAME else wanted, 3)


@pytest.mark.parametrize("before", CONTENTS)
def test_what_was_changed_outside_is_unknown_at_a_new_generation(before):
    assert content_after(Held(CONTENTS[before], 3), EVENTS["changed outside"]) == Held(UnknownContent(), 4)


def test_a_former_content_of_another_generation_is_not_given_back():
    assert content_after(Held(TORN, 4), EndedUnproved("s", Held(AT, 3), wrote_nothing=True)) == Held(TORN, 4)


BASES = {
    "none": None,
    "right": Base(generation=3, point="p1"),
    "old": Base(generation=2, point="p1"),
    "other": Base(generation=3, point="p9"),
}
INCREMENTAL_WHEN = {("at", "right"), ("torn", "right"), ("another's", "right")}


@pytest.mark.parametrize(("content", "base"), list(itertools.product(CONTENTS, BASES)))
def test_a_pass_is_incremental_only_on_the_volumes_own_generation_and_point(content, base):
    mode = choose_mode(Held(CONTENTS[content], 3), BASES[base])
    assert mode.incremental == ((content, base) in INCREMENTAL_WHEN)
    assert mode.reason


points = st.sampled_from(["p1", "p2"])
sessions = st.sampled_from(["s", "t"])
contents = st.one_of(
    st.just(UnknownContent()),
    st.builds(AtPoint, point=points, proof=st.sampled_from(ProofLevel)),
    st.builds(Torn, since_session=sessions, job=st.just("j"), base=st.one_of(st.none(), points)),
)
helds = st.builds(Held, contents, st.integers(1, 3))
events = st.one_of(
    st.builds(Opened, sessions, st.just("j"), st.sampled_from([FULL, INCREMENTAL])),
    st.builds(Proved, sessions, points, st.sampled_from(ProofLevel)),
    st.builds(EndedUnproved, sessions, helds, st.booleans()),
    st.builds(ChangedOutside, st.just("lost")),
)


@settings(max_examples=200, deadline=None)
@given(helds, events)
def test_a_point_appears_only_by_proof_or_by_a_session_that_wrote_nothing(held, event):
    after = content_after(held, event)
    if isinstance(after.content, AtPoint) and after != held:
        assert isinstance(held.content, Torn)
        assert isinstance(event, Proved) or (isinstance(event, EndedUnproved) and event.wrote_nothing)
        assert held.content.since_session == event.session


@settings(max_examples=200, deadline=None)
@given(helds, events)
def test_the_generation_never_falls_and_a_base_never_comes_from_nowhere(held, event):
    after = content_after(held, event)
    assert after.generation >= held.generation
    if isinstance(after.content, Torn) and after != held and not isinstance(event, EndedUnproved):
        assert after.content.base in (None, base_of(held.content))
