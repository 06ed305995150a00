"""Laws for any peer: two machines of ours agree under all options, and no stream of bytes breaks either one."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from nbd_said import CLIENT_FLAGS, EXPORTS, FLAGS, GO, GREETING, answer, contexts, export_info, info, option

from omavol import _wire
from omavol.nbd.handshake import Goal, Next

ROOM = 16384  # of both machines: bytes held, bytes said in one step
MIXED = {
    b"": (0, 1, 0, 0, 0, b""),
    b"web01": (1 << 30, FLAGS, 512, 4096, 1 << 25, b"the system disk"),
    "\u00e9t\u00e9".encode(): ((1 << 63) - 1, 0xFFFF, 65536, 65536, 0xFFFFFFFF, b"d" * 4096),
    b"n" * 4096: (5, FLAGS | 2, 1, 512, 1 << 20, b""),
}
NAMES = st.sampled_from([*MIXED, b"nope"])
CONTEXTS = st.lists(st.sampled_from([b"base:allocation", b"a:b", b"qemu:dirty-bitmap:x" + b"y" * 3000]), max_size=6)
PIECES = st.integers(16, ROOM)  # single bytes: test_wire_laws


class Pipe:
    """One machine and the bytes on their way to it, kept as a receive buffer keeps them."""

    def __init__(self, machine):
        self.machine = machine
        self.coming = b""
        self.held = b""
        self.next = Next.MORE

    @property
    def over(self) -> bool:
        return self.next in (Next.TRANSMIT, Next.CLOSE)

    def step(self, piece: int) -> bytes:
        """Let up to `piece` more bytes arrive and take one step; what it says."""
        taken = self.coming[: min(piece, ROOM - len(self.held))]
        self.coming = self.coming[len(taken) :]
        self.held += taken
        before = len(self.held)
        todo, used, out = self.machine.step(self.held)
        assert 0 <= used <= before and len(out) <= ROOM
        self.next = Next(todo)
        self.held = self.held[used:]
        if self.next is Next.SEND:
            assert used or out, "it wants to be called again and has done nothing"
        if self.next is Next.MORE:
            assert len(self.held) < ROOM, "a full buffer holds nothing that it could take"
        return out


def talk(server: Pipe, client: Pipe, pieces: list[int]) -> None:
    """Carry bytes both ways, in pieces of these sizes over and over, until the client has its answer or an end."""
    for turn in range(20_000):
        piece = pieces[turn % len(pieces)]
        if not server.over and server.next is not Next.TLS:
            client.coming += server.step(piece)
        if not client.over:
            server.coming += client.step(piece)
        if client.next is Next.TLS:
            begin_tls(server, client)
        if client.next is Next.ANSWERED or client.over:
            return
        if server.over and not client.coming and client.next is Next.MORE:
            return
    raise AssertionError("they talk for ever")


def begin_tls(server: Pipe, client: Pipe) -> None:
    """Both stand at the end of what is said in the clear: nothing may be on its way or kept (T11, T12, T20)."""
    assert server.next is Next.TLS
    for pipe in (server, client):
        assert not pipe.coming and not pipe.held
        pipe.machine.secured()
        assert not any(pipe.machine.agreed[fact] for fact in ("structured", "extended", "contexts"))
        pipe.next = Next.MORE


SERVERS = st.fixed_dictionaries(
    {
        "listed": st.booleans(),
        "tls": st.integers(0, 2),
        "tls_only": st.lists(st.sampled_from(list(MIXED)), max_size=2),
        "compact": st.booleans(),
        "contexts": st.sampled_from([(), [(b"web01", b"a:b", 7), (b"web01", b"x-oma:c", 8)]]),
    }
)
WISHES = st.fixed_dictionaries({"extended": st.integers(0, 2), "tls": st.integers(0, 2)})


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(Goal), NAMES), min_size=1, max_size=5),
    CONTEXTS,
    st.integers(0, 2),
    WISHES,
    SERVERS,
    st.lists(PIECES, min_size=1, max_size=8),
)
def test_our_client_and_our_server_agree_whatever_is_asked(questions, wished, structured, wishes, offers, pieces):
    server = Pipe(_wire.ServerMachine(MIXED, **offers))
    machine = _wire.ClientMachine(structured, wished, **wishes)
    client = Pipe(machine)
    for goal, name in [*questions, (Goal.ABORT, b"")]:
        if client.over:
            break
        machine.ask(goal, name)
        client.next = Next.MORE
        talk(server, client, pieces)
        note(f"{goal!r} {name[:20]!r}: {client.next!r} fault {machine.fault} refused {machine.refused:#x}")
        assert machine.fault == 0
        if client.next is Next.TRANSMIT:
            # The client moves first; the server is there once what the client said has arrived.
            while not server.over:
                client.coming += server.step(ROOM)
            assert server.next is Next.TRANSMIT
            assert goal is Goal.GO and name in MIXED
            assert machine.facts == server.machine.told
            assert not client.coming and not client.held
            for fact in ("structured", "extended", "no_zeroes", "contexts", "allocation"):
                assert machine.agreed[fact] == server.machine.agreed[fact], fact
            count = machine.agreed["contexts"]
            assert sorted(machine.contexts.values()) == sorted(server.machine.agreed["ids"][:count])
            assert machine.agreed["extended"] >= (wishes["extended"] == 2)
            assert machine.agreed["structured"] >= (structured == 2)
        elif goal is not Goal.ABORT:
            assert client.next is Next.ANSWERED
            assert bool(machine.refused) or goal is not Goal.GO
    assert client.over


PARTS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([option(8), option(3), contexts(10, b"base:allocation"), info(6), info(6, b"nope"), option(2)]),
    st.builds(option, st.integers(0, 12), st.binary(max_size=300)),
    st.builds(
        lambda number, length: b"IHAVEOPT" + number.to_bytes(4) + length.to_bytes(4),
        st.integers(0, 2**32 - 1),
        st.sampled_from([0, 1, 4095, 4097, ROOM - 16, ROOM - 15, 1 << 20, (1 << 20) + 1, 2**31, 2**32 - 1]),
    ),
    st.just(bytes(ROOM)),
    st.just(info(GO)),
)


class AnyClient(RuleBasedStateMachine):
    """A server that hears one stream twice: at once, and in the pieces hypothesis cuts it into."""

    @initialize(flags=st.sampled_from([CLIENT_FLAGS, b"\0\0\0\1", b"\0\0\0\0", b"\0\0\0\4", b"\xff\xff\xff\xff"]))
    def begin(self, flags):
        self.split, self.whole = Pipe(_wire.ServerMachine(EXPORTS)), Pipe(_wire.ServerMachine(EXPORTS))
        self.said_split = self.said_whole = b""
        self.sent = b""
        self.say(flags)

    def say(self, data):
        self.sent += data
        self.split.coming += data
        self.whole.coming += data
        self.said_whole += self.drained(self.whole, ROOM)

    @staticmethod
    def drained(pipe, piece):
        """All that the machine says to what has come."""
        said = b""
        for _ in range(10_000):
            if pipe.over:
                return said
            said += pipe.step(piece)
            if pipe.next is Next.MORE and not pipe.coming:
                return said
        raise AssertionError("it never has enough")

    @rule(part=PARTS)
    def the_client_says(self, part):
        self.say(part)

    @precondition(lambda self: not self.split.over)
    @rule(piece=st.integers(1, 100))
    def some_of_it_arrives(self, piece):
        self.said_split += self.split.step(piece)

    @rule(piece=st.integers(1, 5000))
    def all_of_it_arrives(self, piece):
        self.said_split += self.drained(self.split, piece)
        assert self.said_split == self.said_whole
        assert self.split.next == self.whole.next

    @invariant()
    def the_split_one_is_never_ahead(self):
        assert self.said_whole.startswith(self.said_split)

    @invariant()
    def only_an_export_that_exists_is_entered(self):
        if self.whole.next is Next.TRANSMIT:
            assert self.whole.machine.told[0] in {row[0] for row in EXPORTS.values()}
            assert info(GO) in self.sent or b"IHAVEOPT\0\0\0\x01" in self.sent or b"IHAVEOPT\0\0\0\x07" in self.sent


TestAnyClient = AnyClient.TestCase
TestAnyClient.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


ANSWERS = st.one_of(
    st.binary(max_size=60),
    st.builds(
        answer, st.integers(0, 12), st.sampled_from([1, 2, 3, 4, 2**31 + 1, 2**31 + 6, 99]), st.binary(max_size=40)
    ),
    st.builds(export_info, st.sampled_from([6, 7]), st.integers(0, 2**64 - 1), st.integers(0, 0xFFFF)),
    st.sampled_from(
        [GREETING, answer(8, 1), answer(10, 4, bytes(4) + b"base:allocation"), answer(10, 1), answer(7, 1)]
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(ANSWERS, max_size=10), st.lists(PIECES, min_size=1, max_size=6), st.integers(0, 2), st.booleans())
def test_a_client_hears_the_same_however_it_is_split_and_believes_only_whole_exports(parts, pieces, wish, greeted):
    stream = (GREETING if greeted else b"") + b"".join(parts)
    ends = []
    for sizes in ([ROOM], pieces):
        machine = _wire.ClientMachine(wish, [b"base:allocation"])
        machine.ask(Goal.GO, b"web01")
        pipe = Pipe(machine)
        pipe.coming = stream
        said, turn = b"", 0
        while not pipe.over and pipe.next is not Next.ANSWERED:
            said += pipe.step(sizes[turn % len(sizes)])
            turn += 1
            assert turn < 20_000
            if pipe.next is Next.MORE and not pipe.coming:
                break
        if pipe.next is Next.TRANSMIT:
            assert machine.facts[0] < 1 << 63 and machine.facts[1] & 1
            assert wish != 2 or machine.agreed["structured"]
        ends.append((said, pipe.next, machine.fault))
    assert ends[0] == ends[1]


def test_C27_structured_replies_once_demanded_stay_demanded_for_the_next_question():
    machine = _wire.ClientMachine(2)
    refused = answer(8, 2**31 + 1)
    for _ in range(2):
        machine.ask(Goal.GO, b"web01")
        todo, _, _ = machine.step(GREETING if machine.option == 0 else b"")
        assert machine.option == 8, "it went on without what was demanded"
        todo, _, _ = machine.step(refused)
        assert (todo, machine.refused) == (Next.ANSWERED, 2**31 + 1)
