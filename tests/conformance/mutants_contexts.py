"""The faulty servers of meta contexts."""

from __future__ import annotations

import struct

from mutants import mutant

from omavol.conformance.clients.answers import Honest
from omavol.conformance.numbers import Rep
from omavol.nbd.wire import Option, OptionError

# Meta contexts


@mutant("H9-list-that-does-not-add-up")
class ListOfContextsIgnoresLengths(Honest):
    def opt_list_meta_context(self, data):
        self.reply(Option.LIST_META_CONTEXT, Rep.ACK) if data.endswith(b"base:") and data[-6] != 5 else (
            super().opt_list_meta_context(data)
        )


@mutant("H29-set-before-structured")
class SetsBeforeStructured(Honest):
    def opt_set_meta_context(self, data):
        if not self.structured:
            self.reply(Option.SET_META_CONTEXT, Rep.ACK)
        else:
            super().opt_set_meta_context(data)


@mutant("H30-list-before-structured")
class ListBeforeStructuredIsUnknown(Honest):
    def opt_list_meta_context(self, data):
        if not self.structured:
            self.reply(Option.LIST_META_CONTEXT, OptionError.UNKNOWN)
        else:
            super().opt_list_meta_context(data)


@mutant("H31-set-replaces", "H31-failed-set-replaces")
class ContextsAddUp(Honest):
    def opt_set_meta_context(self, data):
        before = dict(self.selected)
        super().opt_set_meta_context(data)
        self.selected = before | self.selected


@mutant("H31-failed-set-replaces")
class AFailedSetKeepsContexts(Honest):
    def opt_set_meta_context(self, data):
        before, self.failed = dict(self.selected), False
        super().opt_set_meta_context(data)
        if self.failed:
            self.selected = before

    def reply(self, option, kind, data=b""):
        if option == Option.SET_META_CONTEXT and kind & 1 << 31:
            self.failed = True
        super().reply(option, kind, data)


class _Contexts(Honest):
    """Changes the names that LIST_META_CONTEXT (or SET) gives for some queries."""

    def list_names(self, queries):
        named = [name for name in self.offers.contexts if name in queries]
        return named or [name for name in self.offers.contexts if not queries or self.offered_by(name, queries)]

    @staticmethod
    def offered_by(name, queries):
        return "base:" in queries and name.startswith("base:")

    def set_names(self, queries):
        return [(number + 1, name) for number, name in enumerate(self.offers.contexts) if name in queries]

    def opt_list_meta_context(self, data):
        asked = self.contexts_asked(Option.LIST_META_CONTEXT, data)
        if asked:
            for name in self.list_names(asked[1]):
                self.reply(Option.LIST_META_CONTEXT, Rep.META_CONTEXT, bytes(4) + name.encode())
            self.reply(Option.LIST_META_CONTEXT, Rep.ACK)

    def opt_set_meta_context(self, data):
        self.selected = {}
        asked = self.contexts_asked(Option.SET_META_CONTEXT, data)
        if asked:
            self.selected_for = asked[0]
            names = self.set_names(asked[1])
            self.selected = {name: number for number, name in names}
            for number, name in names:
                self.reply(Option.SET_META_CONTEXT, Rep.META_CONTEXT, struct.pack(">I", number) + name.encode())
            self.reply(Option.SET_META_CONTEXT, Rep.ACK)


@mutant("H32-list-gives-all")
class ListHidesAllocation(_Contexts):
    def list_names(self, queries):
        return super().list_names(queries) if queries else ["x-test:two"]

    def set_names(self, queries):
        return super().set_names(queries)


@mutant("H33-set-of-nothing", "H31-set-replaces")
class SetOfNothingSelectsAll(_Contexts):
    def set_names(self, queries):
        return super().set_names(queries or self.offers.contexts[:1])


@mutant("H34-selected-contexts-have-ids", "X44-one-chunk-a-context")
class OneIdForAll(_Contexts):
    def set_names(self, queries):
        return [(7, name) for _, name in super().set_names(queries)]

    def cmd_block_status(self, asked):
        if len(self.selected) == 1:
            return super().cmd_block_status(asked)
        self.selected = dict(list(self.selected.items())[:1])
        return super().cmd_block_status(asked)


@mutant("H35-same-query-twice")
class SelectsTwice(_Contexts):
    def set_names(self, queries):
        names = super().set_names(queries)
        return names * 2 if len(queries) > len(set(queries)) else names


@mutant("H36-base-wildcard-lists")
class NoWildcard(_Contexts):
    def list_names(self, queries):
        return [] if queries == ["base:"] else super().list_names(queries)


@mutant("H36-base-wildcard-selects-nothing")
class WildcardSelects(_Contexts):
    def set_names(self, queries):
        return super().set_names(["base:allocation" if query == "base:" else query for query in queries])


@mutant("H37-unknown-leaf-of-base")
class UnknownLeafIsRefused(_Contexts):
    def contexts_asked(self, option, data):
        if b"base:nobody" in data:
            self.reply(option, OptionError.INVALID)
            return None
        return super().contexts_asked(option, data)


@mutant("H38-list-ignores-unknown-namespaces")
class UnknownNamespaceIsRefused(_Contexts):
    def contexts_asked(self, option, data):
        if b"x-nobody-knows-this" in data and option == Option.LIST_META_CONTEXT:
            self.reply(option, OptionError.INVALID)
            return None
        return super().contexts_asked(option, data)


@mutant("H39-set-ignores-unknown-namespaces")
class UnknownNamespaceSelects(_Contexts):
    def set_names(self, queries):
        more = [(9, query) for query in queries if query.startswith("x-nobody")]
        return [*super().set_names(queries), *more]


@mutant("H40-query-without-a-colon")
class NoColonIsUnknown(_Contexts):
    def contexts_asked(self, option, data):
        if b"nocolon" in data:
            self.reply(option, OptionError.UNKNOWN)
            return None
        return super().contexts_asked(option, data)


@mutant("H41-contexts-of-an-unknown-export")
class ContextsOfAnybody(_Contexts):
    def contexts_asked(self, option, data):
        knows, self.knows = self.knows, lambda name: True
        try:
            return super().contexts_asked(option, data)
        finally:
            self.knows = knows


@mutant("H42-contexts-of-another-export")
class ContextsOfEveryExport(Honest):
    def enter(self, name):
        self.selected_for = name
        super().enter(name)
