"""The asyncio client: `connect(uri)` gives a `Connection` whose requests are awaited, many in flight at once.

>>> import asyncio
>>> from omavol import nbd
>>> async def both_ends():
...     async with await nbd.aio.connect(uri) as disk:
...         await asyncio.gather(disk.write(0, b"first"), disk.write(disk.size - 4, b"last"))
...         await disk.flush()
...         return await asyncio.gather(disk.read(0, 5), disk.read(disk.size - 4, 4))
>>> asyncio.run(both_ends())
[b'first', b'last']

The protocol is `omavol.nbd.session`, the same that the blocking client runs; here is what concerns an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from omavol.nbd import client, connection
from omavol.nbd.aio.connection import Connection
from omavol.nbd.errors import Breach
from omavol.nbd.handshake import Wish
from omavol.nbd.uri import Uri, parse

__all__ = ["Connection", "connect"]

IN_FLIGHT = 64  # requests on one connection


async def connect(
    uri: Uri | str,
    *,
    connections: int = 1,
    in_flight: int = IN_FLIGHT,
    timeout: float = client.TIMEOUT,
    structured: Wish = Wish.OFFERED,
    extended: Wish = Wish.OFFERED,
    contexts: Sequence[str] = (client.ALLOCATION,),
) -> Connection:
    """Connect to the export of a URI and enter it, as `omavol.nbd.connect`, with the same errors.

    `connections` are opened where the server promises that a flush on one covers the others (CAN_MULTI_CONN, C12), else
    one. `in_flight` requests go at once on each; more wait for their turn. `timeout` seconds limit the connect, each
    question of the handshake, and the wait of the request that waits longest; then the connection ends with TimedOut.
    """
    where = parse(uri) if isinstance(uri, str) else uri
    enter = partial(client.connect, where, timeout=timeout, structured=structured, extended=extended, contexts=contexts)
    entered = [await _in_a_thread(enter)]
    export = entered[0].export
    try:
        for _ in range(connections - 1 if export.multi_conn else 0):
            entered.append(await _in_a_thread(enter))
            if (entered[-1].size, entered[-1].export.flags) != (export.size, export.flags):
                raise Breach(f"{where.place}: another connection to the export shows another size or other abilities")
    except BaseException:
        for each in entered:
            each.release().close()
        raise
    return Connection([each.release() for each in entered], where, export, entered[0].fixed, in_flight)


async def _in_a_thread(enter: partial[connection.Connection]) -> connection.Connection:
    """The name's resolution and the handshake, a few short exchanges, block a thread of their own.

    A caller that is cancelled meanwhile leaves a thread that ends within the timeout and closes what it opened.
    """
    executor = ThreadPoolExecutor(1, "nbd-connect")
    entering = executor.submit(enter)
    executor.shutdown(wait=False)
    try:
        return await asyncio.wrap_future(entering)
    except asyncio.CancelledError:
        entering.add_done_callback(_discard)
        raise


def _discard(entering: Future[connection.Connection]) -> None:
    if not entering.cancelled() and entering.exception() is None:
        entering.result().close()
