"""`omavol info`: what an NBD server offers, in nbdinfo's words, JSON shapes and exit codes (nbdinfo(1))."""

from __future__ import annotations

import json
from dataclasses import dataclass

import click

from omavol.cli.nbdtool import NbdCommand, fail, seconds
from omavol.nbd.client import TIMEOUT, connect, negotiate
from omavol.nbd.errors import ConnectFailed, Disconnected, NbdError, NotFixed, Refused
from omavol.nbd.handshake import Export
from omavol.nbd.uri import Uri, parse
from omavol.nbd.wire import OptionError, TransmissionFlag

__all__ = ["command"]

# nbdinfo's names of the transmission flags, in its order.
_FLAGS: dict[str, TransmissionFlag] = {
    "is_rotational": TransmissionFlag.ROTATIONAL,
    "is_read_only": TransmissionFlag.READ_ONLY,
    "can_block_status_payload": TransmissionFlag.BLOCK_STATUS_PAYLOAD,
    "can_cache": TransmissionFlag.SEND_CACHE,
    "can_df": TransmissionFlag.SEND_DF,
    "can_fast_zero": TransmissionFlag.SEND_FAST_ZERO,
    "can_flush": TransmissionFlag.SEND_FLUSH,
    "can_fua": TransmissionFlag.SEND_FUA,
    "can_multi_conn": TransmissionFlag.CAN_MULTI_CONN,
    "can_trim": TransmissionFlag.SEND_TRIM,
    "can_zero": TransmissionFlag.SEND_WRITE_ZEROES,
}
_IS = ("read-only", "rotational", "tls")
_CAN = (
    *("block-status-payload", "cache", "connect", "df", "extended-headers", "fast-zero", "flush", "fua"),
    *("multi-conn", "read", "structured-reply", "trim", "write", "zero"),
)
_ALIASES = {"extended": "extended-headers", "structured": "structured-reply"}


@dataclass(frozen=True)
class Shown:
    """One export with all that is shown of it; `contexts` is None where the server could not be asked."""

    uri: Uri
    export: Export
    contexts: tuple[str, ...] | None


@dataclass(frozen=True)
class Server:
    """What the handshake with a server came to."""

    fixed: bool
    structured: bool
    extended: bool
    secured: bool
    exports: tuple[Shown, ...]


@click.command(cls=NbdCommand)
@click.argument("uri")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in nbdinfo's shape.")
@click.option("-L", "--list", "listing", is_flag=True, help="Show every export; the name in the URI is ignored.")
@click.option("--size", "only_size", is_flag=True, help="Print the size in bytes and nothing else.")
@click.option("--is", "quality", metavar="|".join(_IS), help="Print nothing; exit 0 if it is, 2 if not.")
@click.option("--isnt", "no_quality", metavar="|".join(_IS), help="Print nothing; exit 0 if it is not, 2 if it is.")
@click.option("--can", "--has", "ability", metavar="|".join(_CAN), help="Print nothing; exit 0 if it can, 2 if not.")
@click.option("--cannot", "no_ability", metavar="|".join(_CAN), help="Print nothing; exit 0 if it cannot, 2 if it can.")
@click.option(
    "--timeout", default=TIMEOUT, show_default=True, callback=seconds, help="Seconds that any answer may take."
)
def command(
    uri: str,
    as_json: bool,
    listing: bool,
    only_size: bool,
    quality: str | None,
    no_quality: str | None,
    ability: str | None,
    no_ability: str | None,
    timeout: float,
) -> None:
    """Show what an NBD server offers at URI (nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH)."""
    asked = [question for question in (quality, no_quality, ability, no_ability) if question is not None]
    if sum((listing, only_size, len(asked))) > 1:
        raise click.ClickException("--list, --size, --is and --can exclude one another")
    wanted = no_quality is None and no_ability is None
    quality, ability = quality or no_quality, _ALIASES.get(asked[0], asked[0]) if ability or no_ability else None
    if quality is not None and quality not in _IS:
        raise click.ClickException(f"--is {quality}: not one of {', '.join(_IS)}")
    if ability is not None and ability not in _CAN:
        raise click.ClickException(f"--can {ability}: not one of {', '.join(_CAN)}")
    try:
        if ability == "connect":
            raise SystemExit(0 if _connects(uri, timeout) is wanted else 2)
        server = _list(parse(uri), timeout) if listing else _one(parse(uri), timeout)
    except NbdError as error:
        fail(error)
    if quality is not None or ability is not None:
        raise SystemExit(0 if _holds(server, quality, ability) is wanted else 2)
    if only_size:
        click.echo(server.exports[0].export.size)
    else:
        click.echo(_json(server) if as_json else _text(server), nl=False)


def _connects(uri: str, timeout: float) -> bool:
    try:
        connect(uri, timeout=timeout).close()
    except (ConnectFailed, Disconnected, Refused):
        return False
    return True


def _holds(server: Server, quality: str | None, ability: str | None) -> bool:
    export = server.exports[0].export
    if quality == "tls":
        return server.secured
    if ability == "read":
        return True
    if ability == "write":
        return not export.read_only
    if ability == "structured-reply":
        return export.structured
    if ability == "extended-headers":
        return export.extended
    name = f"is_{quality}" if quality is not None else f"can_{ability}"
    return bool(export.flags & _FLAGS[name.replace("-", "_")])


def _one(uri: Uri, timeout: float) -> Server:
    """One export, by INFO where the server knows that, else by entering it."""
    try:
        with negotiate(uri, timeout=timeout) as session:
            export = session.info(uri.export)
            shown = Shown(uri, export, session.contexts(uri.export))
            return Server(True, session.structured, session.extended, session.secured, (shown,))
    except NotFixed:
        return _entered(uri, timeout)
    except Refused as error:
        if error.error != OptionError.UNSUP:
            raise
        return _entered(uri, timeout)


def _entered(uri: Uri, timeout: float) -> Server:
    with connect(uri, timeout=timeout) as connection:
        contexts = tuple(connection.export.contexts) if connection.structured else None
        shown = Shown(uri, connection.export, contexts)
        return Server(connection.fixed, connection.structured, connection.export.extended, connection.secured, (shown,))


def _list(uri: Uri, timeout: float) -> Server:
    """Every export; one that is listed and then refused is a line on stderr, and the others are shown."""
    shown: list[Shown] = []
    with negotiate(uri, timeout=timeout) as session:
        for listed in session.exports():
            try:
                export = session.info(listed.name)
                if listed.description:
                    export = export._replace(description=listed.description)
                shown.append(Shown(uri.with_export(listed.name), export, session.contexts(listed.name)))
            except Refused as error:
                click.echo(f"omavol info: {error}", err=True)
        return Server(session.fixed, session.structured, session.extended, session.secured, tuple(shown))


def _human(size: int) -> str:
    """The size in the largest unit that leaves no rest.

    >>> _human(104857600), _human(1536), _human(0)
    ('100M', '1536', '0')
    """
    unit = 0
    while size and size % 1024 == 0 and unit < 6:
        size, unit = size // 1024, unit + 1
    return f"{size}{' KMGTPE'[unit].strip()}"


def _sized(size: int) -> str:
    human = _human(size)
    return str(size) if human == str(size) else f"{size} ({human})"


def _said(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return _sized(value) if isinstance(value, int) else value


def _fields(shown: Shown) -> dict[str, str | int | bool | list[str]]:
    """Everything shown of an export but its size, under nbdinfo's names and in its order."""
    export = shown.export
    fields: dict[str, str | int | bool | list[str]] = {"uri": str(shown.uri)}
    if shown.contexts is not None:
        fields["contexts"] = list(shown.contexts)
    fields |= {name: bool(export.flags & flag) for name, flag in _FLAGS.items()}
    if export.block_sizes_told:
        fields["block_size_minimum"] = export.minimum
        fields["block_size_preferred"] = export.preferred
        fields["block_size_maximum"] = export.maximum
    return fields


def _protocol(server: Server) -> str:
    return "newstyle-fixed" if server.fixed else "newstyle"


def _name(shown: Shown) -> str:
    return shown.export.name if shown.export.canonical_name is None else shown.export.canonical_name


def _json(server: Server) -> str:
    exports = []
    for shown in server.exports:
        described = {"description": shown.export.description} if shown.export.description else {}
        sizes = {"export-size": shown.export.size, "export-size-str": _human(shown.export.size)}
        exports.append({"export-name": _name(shown), **described, **_fields(shown), **sizes})
    document = {
        "protocol": _protocol(server),
        "TLS": server.secured,
        "structured": server.structured,
        "extended": server.extended,
        "exports": exports,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _text(server: Server) -> str:
    packets = "extended" if server.extended else "structured" if server.structured else "simple"
    tls = "with" if server.secured else "without"
    lines = [f"protocol: {_protocol(server)} {tls} TLS, using {packets} packets"]
    for shown in server.exports:
        lines.append(f"export={json.dumps(_name(shown), ensure_ascii=False)}:")
        if shown.export.description:
            lines.append(f"\tdescription: {shown.export.description}")
        lines.append(f"\texport-size: {_sized(shown.export.size)}")
        for name, value in _fields(shown).items():
            if isinstance(value, list):
                lines += [f"\t{name}:", *(f"\t\t{item}" for item in value)]
            else:
                lines.append(f"\t{name}: {_said(value)}")
    return "\n".join(lines) + "\n"
