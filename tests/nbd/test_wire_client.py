"""The client's handshake without sockets: what it asks, believes and falls back to (C3, C4, C13 to C24)."""

import struct

import pytest
from nbd_said import (
    ABORT,
    EXPORT_NAME,
    FLAGS,
    GO,
    GREETING,
    INFO,
    INFO_REPLY,
    INVALID,
    LIST,
    LIST_CONTEXT,
    META_CONTEXT,
    POLICY,
    SERVER,
    SET_CONTEXT,
    STRUCTURED,
    UNKNOWN,
    UNSUP,
    answer,
    export_info,
)

from omavol import _wire
from omavol.nbd.handshake import Fault, Goal, Next, Seen, Wish

BASE = b"base:allocation"
BITMAP = b"qemu:dirty-bitmap:today"


class Client:
    """A client's handshake as a server sees it."""

    def __init__(self, goal=Goal.GO, name=b"web01", structured=Wish.OFFERED, contexts=(), greeting=GREETING) -> None:
        self.machine = _wire.ClientMachine(structured, contexts)
        self.machine.ask(goal, name)
        self.next = Next.MORE
        self.seen: list[tuple[int, bytes, bytes]] = []
        self.rest = b""
        self.first = self.hear(greeting)

    def hear(self, *data: bytes) -> bytes:
        """What the client says to that, without its 4 bytes of flags."""
        said = b""
        self.rest += b"".join(data)
        while True:
            todo, used, out = self.machine.step(self.rest)
            self.rest, said, self.next = self.rest[used:], said + out, Next(todo)
            if self.machine.seen:
                self.seen.append(self.machine.seen)
            if todo not in (Next.SEND, Next.SEEN):
                return said

    def options(self, *data: bytes) -> list[int]:
        said, numbers = self.hear(*data), []
        while said:
            assert said[:8] == b"IHAVEOPT"
            number, length = struct.unpack_from(">II", said, 8)
            numbers.append(number)
            said = said[16 + length :]
        return numbers

    @property
    def fault(self) -> Fault:
        assert (self.next == Next.CLOSE) == bool(self.machine.fault)
        return Fault(self.machine.fault)


def ack(number: int) -> bytes:
    return answer(number, 1)


def block_sizes(minimum: int, preferred: int, maximum: int, number: int = GO) -> bytes:
    return answer(number, INFO_REPLY, struct.pack(">HIII", 3, minimum, preferred, maximum))


def bare(*data: bytes, contexts=()) -> Client:
    """A client that wants GO alone, and what it heard."""
    client = Client(structured=Wish.NEVER, contexts=contexts)
    client.hear(*data)
    return client


def test_a_plain_session_asks_one_option_at_a_time():  # C13
    client = Client(contexts=[BASE])
    assert client.first == struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", STRUCTURED, 0)
    assert client.options(ack(STRUCTURED)) == [SET_CONTEXT]
    assert client.options(answer(SET_CONTEXT, META_CONTEXT, bytes(4) + BASE)) == []
    assert client.options(ack(SET_CONTEXT)) == [GO]
    assert client.options(export_info(), block_sizes(512, 4096, 1 << 25), ack(GO)) == []
    assert client.next == Next.TRANSMIT
    assert client.machine.facts == (1 << 20, FLAGS, 512, 4096, 1 << 25)
    assert client.machine.contexts == {"base:allocation": 0}  # C18: an id of 0 is an id


def test_C13_each_information_is_requested_once_and_no_data_goes_with_structured_reply():
    client = Client(structured=Wish.NEVER)
    assert client.first[4:].endswith(struct.pack(">I5sHHHH", 5, b"web01", 3, 1, 2, 3))


@pytest.mark.parametrize(
    ("greeting", "fault"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", Fault.NOT_NBD),
        (b"NBDMAGIC" + bytes(10), Fault.NOT_NBD),
        (b"NBDMAGIC" + struct.pack(">QQI", 0x00420281861253, 1 << 20, 0), Fault.OLDSTYLE),  # CVE-2019-14842
    ],
)
def test_what_is_no_newstyle_server_is_named(greeting, fault):
    assert Client(greeting=greeting).fault == fault


def test_C4_unknown_handshake_flags_are_ignored_and_not_given_back():
    assert Client(greeting=b"NBDMAGICIHAVEOPT\xff\xff").first[:4] == struct.pack(">I", 3)


def test_C19_a_server_that_is_not_fixed_is_asked_by_export_name():
    client = Client(contexts=[BASE], greeting=b"NBDMAGICIHAVEOPT\0\0")
    assert client.first == bytes(4) + b"IHAVEOPT" + struct.pack(">II", EXPORT_NAME, 5) + b"web01"
    client.hear(struct.pack(">QH", 1 << 20, 5), bytes(123))
    assert client.next == Next.MORE
    client.hear(b"\0")
    assert client.next == Next.TRANSMIT


@pytest.mark.parametrize("goal", [Goal.INFO, Goal.LIST, Goal.CONTEXTS])
def test_nothing_else_can_be_asked_of_a_server_that_is_not_fixed(goal):
    assert Client(goal, greeting=b"NBDMAGICIHAVEOPT\0\0").fault == Fault.NOT_FIXED


def test_C19_go_falls_back_to_export_name_and_structured_replies_to_simple():
    client = Client(contexts=[BASE])
    assert client.options(answer(STRUCTURED, UNSUP)) == [GO]
    assert client.options(answer(GO, UNSUP, b"what?")) == [EXPORT_NAME]
    client.hear(struct.pack(">QH", 1 << 20, FLAGS))
    assert client.next == Next.TRANSMIT
    assert not client.machine.agreed["structured"]
    assert client.machine.facts[:2] == (1 << 20, FLAGS & ~0x80)  # C14: no DF without structured replies


def test_C27_a_downgrade_of_structured_replies_is_refused_where_they_are_demanded():
    client = Client(structured=Wish.DEMANDED)
    assert client.options(answer(STRUCTURED, POLICY)) == []
    assert (client.next, client.machine.refused) == (Next.ANSWERED, POLICY)
    assert Client(structured=Wish.DEMANDED, greeting=b"NBDMAGICIHAVEOPT\0\0").fault == Fault.NOT_FIXED


def test_C18_contexts_before_an_error_count_for_nothing():
    client = Client(contexts=[BASE])
    client.hear(ack(STRUCTURED), answer(SET_CONTEXT, META_CONTEXT, bytes(4) + BASE))
    assert client.options(answer(SET_CONTEXT, UNSUP)) == [GO]
    client.hear(export_info(), ack(GO))
    assert client.machine.contexts == {}
    assert not client.machine.agreed["contexts"]


def test_C17_a_context_that_was_not_asked_for_is_a_breach():
    client = Client(contexts=[BASE])
    client.hear(ack(STRUCTURED), answer(SET_CONTEXT, META_CONTEXT, bytes(4) + BITMAP))
    assert client.fault == Fault.CONTEXT


@pytest.mark.parametrize("second", [bytes(4) + BITMAP, b"\0\0\0\1" + BASE, bytes(3)])
def test_H34_one_id_or_one_context_twice_is_a_breach(second):
    client = Client(contexts=[BASE, BITMAP])
    client.hear(ack(STRUCTURED), answer(SET_CONTEXT, META_CONTEXT, bytes(4) + BASE))
    client.hear(answer(SET_CONTEXT, META_CONTEXT, second))
    assert client.fault in (Fault.CONTEXT, Fault.REPLY_LENGTH)


def test_C3_unknown_information_is_ignored():
    client = bare(answer(GO, INFO_REPLY, b"\x12\x34anything"), export_info(), ack(GO))
    assert client.next == Next.TRANSMIT


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (b"x" * 20, Fault.REPLY_MAGIC),
        (ack(LIST), Fault.REPLY_OPTION),
        (answer(GO, SERVER, bytes(4)), Fault.REPLY_TYPE),
        (answer(GO, META_CONTEXT, bytes(4)), Fault.REPLY_TYPE),
        (answer(GO, 77), Fault.REPLY_TYPE),
        (answer(GO, 1, b"x"), Fault.REPLY_LENGTH),
        (answer(GO, INFO_REPLY, b"\0"), Fault.REPLY_LENGTH),
        (answer(GO, INFO_REPLY, b"\0\0" + bytes(9)), Fault.REPLY_LENGTH),
        (answer(GO, INFO_REPLY, b"\0\3" + bytes(11)), Fault.REPLY_LENGTH),
        (answer(GO, INFO_REPLY, b"\0\1" + b"x" * 4097), Fault.STRING),
        (answer(GO, INFO_REPLY, b"\0\2" + b"\xff"), Fault.STRING),
        (answer(GO, INFO_REPLY, b"\0\1" + b"a\0"), Fault.STRING),
        (struct.pack(">QIII", 0x0003E889045565A9, GO, 3, 2**32 - 1), Fault.REPLY_LENGTH),
        (ack(GO), Fault.NO_EXPORT),
        (block_sizes(1, 512, 512) + ack(GO), Fault.NO_EXPORT),
        (export_info(flags=0), Fault.FLAGS),
        (export_info(size=1 << 63), Fault.SIZE),  # C24, CVE-2023-5215
        (export_info(size=2**64 - 1), Fault.SIZE),
    ],
)
def test_C22_an_answer_is_checked_before_it_is_believed(said, fault):
    assert bare(said).fault == fault


@pytest.mark.parametrize(
    ("sizes", "good"),
    [
        ((1, 4096, 1 << 25), True),
        ((512, 512, 512), True),
        ((65536, 65536, 0xFFFFFFFF), True),
        ((0, 4096, 1 << 25), False),
        ((3, 4096, 1 << 25), False),
        ((1 << 17, 1 << 17, 1 << 25), False),
        ((1, 256, 1 << 25), False),
        ((1, 4095, 1 << 25), False),
        ((4096, 512, 1 << 25), False),
        ((1, 4096, 2048), False),
        ((1, 0, 0), False),
    ],
)
def test_H46_block_sizes_that_break_the_rules_are_a_breach(sizes, good):
    assert (bare(block_sizes(*sizes)).fault == Fault.BLOCK_SIZE) is not good


@pytest.mark.parametrize("size", [0, 1, 12345, 2**63 - 1])
def test_C24_odd_sizes_are_believed(size):
    assert bare(export_info(size=size), ack(GO)).machine.facts[0] == size


def test_C14_fast_zero_without_write_zeroes_is_taken_off():
    assert bare(export_info(flags=1 | 0x800), ack(GO)).machine.facts[1] == 1


def test_a_refusal_leaves_the_session_for_another_question():
    client = bare(answer(GO, UNKNOWN, b"not here"))
    assert (client.next, client.machine.refused, client.machine.message) == (Next.ANSWERED, UNKNOWN, b"not here")
    client.machine.ask(Goal.ABORT)
    assert client.options() == [ABORT]  # C7
    client.hear(ack(ABORT))
    assert (client.next, client.machine.fault) == (Next.CLOSE, Fault.NONE)


def test_a_refusal_in_no_words_or_bad_ones_is_a_refusal():
    assert bare(answer(GO, POLICY, b"\xff\xfe")).machine.message == b""


def test_list_names_the_exports():
    client = Client(Goal.LIST)
    assert client.first[4:] == b"IHAVEOPT" + struct.pack(">II", LIST, 0)
    client.hear(answer(LIST, SERVER, b"\0\0\0\5web01the first"), answer(LIST, SERVER, bytes(4)), ack(LIST))
    assert client.next == Next.ANSWERED
    assert client.seen == [(Seen.EXPORT, b"web01", b"the first"), (Seen.EXPORT, b"", b"")]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (bytes(3), Fault.REPLY_LENGTH),
        (b"\0\0\0\6web01", Fault.REPLY_LENGTH),
        (b"\xff\xff\xff\xffweb01", Fault.REPLY_LENGTH),  # CVE-2017-2630
        (b"\0\0\x10\x01" + b"x" * 4097, Fault.STRING),
        (b"\0\0\0\1\0", Fault.STRING),
    ],
)
def test_C22_a_list_is_checked_before_it_is_believed(data, fault):
    client = Client(Goal.LIST)
    client.hear(answer(LIST, SERVER, data))
    assert client.fault == fault


def test_a_server_that_lists_without_end_is_left():
    client = Client(Goal.LIST)
    said = answer(LIST, SERVER, bytes(4)) * 1000
    for _ in range(66):
        client.hear(said)
    assert client.fault == Fault.FLOOD


def test_info_then_go_ask_for_structured_replies_and_contexts_once():
    client = Client(Goal.INFO, contexts=[BASE])
    client.hear(ack(STRUCTURED))
    assert client.options(answer(SET_CONTEXT, META_CONTEXT, b"\0\0\0\7" + BASE), ack(SET_CONTEXT)) == [INFO]
    client.hear(export_info(INFO), ack(INFO))
    assert client.next == Next.ANSWERED
    client.machine.ask(Goal.GO, b"web01")
    assert client.options() == [GO]
    client.hear(export_info(), ack(GO))
    assert client.machine.contexts == {"base:allocation": 7}


def test_H42_contexts_are_asked_for_again_for_another_export():
    client = Client(Goal.INFO, contexts=[BASE])
    client.hear(ack(STRUCTURED), answer(SET_CONTEXT, META_CONTEXT, bytes(4) + BASE), ack(SET_CONTEXT))
    client.hear(answer(INFO, UNKNOWN))
    assert client.machine.contexts
    client.machine.ask(Goal.GO, b"web02")
    assert not client.machine.contexts
    assert client.options() == [SET_CONTEXT]
    assert client.options(ack(SET_CONTEXT)) == [GO]


def test_contexts_of_an_export_are_asked_for_with_structured_replies_alone():
    client = Client(Goal.CONTEXTS)
    assert client.options(ack(STRUCTURED)) == [LIST_CONTEXT]
    client.hear(answer(LIST_CONTEXT, META_CONTEXT, b"\0\0\0\5" + BITMAP), ack(LIST_CONTEXT))
    assert client.seen == [(Seen.CONTEXT, BITMAP, b"")]
    refused = Client(Goal.CONTEXTS)
    assert refused.options(answer(STRUCTURED, INVALID)) == []
    assert (refused.next, refused.machine.refused) == (Next.ANSWERED, UNSUP)


def test_a_server_that_answers_ahead_of_the_questions_gets_one_option_a_step():
    wishes = [b"x:" + bytes([65 + number]) * 4000 for number in range(8)]
    machine = _wire.ClientMachine(Wish.OFFERED, wishes)
    machine.ask(Goal.GO, b"n" * 4096)
    said = GREETING + ack(STRUCTURED) + ack(SET_CONTEXT) + answer(GO, UNSUP) + struct.pack(">QH", 1, 1)
    steps = []
    while not steps or steps[-1][0] == Next.SEND:
        todo, used, out = machine.step(said)
        said = said[used:]
        steps.append((todo, len(out)))
        assert len(out) <= 16384
    assert [todo for todo, _ in steps] == [Next.SEND] * 3 + [Next.TRANSMIT]
    assert steps[1][1] > 12_000  # as many contexts as fit


def test_more_contexts_than_there_is_room_for_are_an_error():
    with pytest.raises(ValueError, match="contexts"):
        _wire.ClientMachine(1, [BASE] * 9)
    with pytest.raises(ValueError, match="string"):
        _wire.ClientMachine(1, [b"x\0"])
