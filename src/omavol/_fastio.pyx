"""The loops that move data: serve, copy and load, each in parts under fastio/, all of them without the GIL.

Serving
-------
A *connection* that has nothing to do is a small struct in one epoll set: no thread, no buffer, in the handshake too.
When its socket can be read (or written, if replies wait) one *worker* takes it; EPOLLONESHOT makes the worker its only
owner until it is parked again. A worker is a thread with one receive buffer and one outbox. It takes requests in bulk
from the buffer and answers into the outbox; when the buffer holds no whole request any more the outbox is sent. It
stays with its connection while something comes within a few milliseconds and no other connection waits for a worker;
for a client that asks promptly, one by one, it waits awake (fastio/brisk.pxi).

An *outbox* is bytes and file ranges in order. A READ up to 64 KiB is one pread into the bytes, behind a header that
says DONE; a larger one is a header, a range that sendfile takes, and a closing NONE(DONE). Nothing here ever blocks in
send: when the socket takes no more, what is left is kept with the connection and requests go on being read, a READ
costing its header and a range, no data. So a client that only writes cannot lock with a server that only sends; past a
bound of queued replies the connection waits for its client, and no thread waits with it.

A WRITE of 64 KiB or more that follows another is taken from the socket by splice, through the worker's pipe: its
header is received alone, its payload is copied once, into the page cache, and never through memory of ours.

A request that might wait, for the disk or for a filter, becomes a *job*: data that the page cache has is served inline,
the rest is done by a *pool* of threads, in any order. The worker goes on with the connection meanwhile, or parks it; a
finished job calls it back by its socket's EPOLLOUT. So two events may name one connection, and two workers get one
each: the exchange on `taken` decides who has it, and the memory of ended connections is used for connections only,
so that a late event never names anything else. A filter decides when a request goes on and whether it fails; who
waits in one occupies no thread and holds no generation. Jobs and their bytes are bounded for each connection.

An *export* is a name, the facts told to clients, and its current *generation*: an open descriptor with a number. A
connection with requests in hand holds its generation; retarget holds the export (connections stop at the boundary of
a request), waits until the old generation is not held by anyone, swaps, resumes. Remove refuses new clients, ends the
present ones, syncs and closes the descriptor. Who takes and gives nothing for two seconds during either is shut down.

One mutex, `Table.lock`, guards the table of exports, every reference count, and who owns a connection. It is taken
once for a batch of requests, never held across a system call that may wait. Workers never take the GIL, so Python may
take the lock while it holds the GIL, though it does not keep the GIL while it waits for a drain.

Copying
-------
One thread, the caller's, runs a whole copy: all connections of both ends are nonblocking sockets in one poll set. There
is no lock, and no end is sent to while the other cannot be read. The disk is cut into *pieces*, at most 1 MiB and never
across a multiple of it; each *flight* is one request of a piece. A piece is received straight into its buffer, looked
at and hashed there when its last byte came, and sent from there at once, while it is hot. From a file without digests
nothing is received: WRITE's header goes with MSG_MORE and sendfile moves the payload.

Loading
-------
One thread drives every connection of a load generator in one poll set. A *slot* is a request in flight: when its reply
has been checked and counted it asks the next one, with all others that became free by the same receive in one send.
"""

include "fastio/client_system.pxi"
include "fastio/copy_types.pxi"
include "fastio/client_send.pxi"
include "fastio/client_receive.pxi"
include "fastio/client_status.pxi"
include "fastio/copy_loss.pxi"
include "fastio/copy_pieces.pxi"
include "fastio/copy_files.pxi"
include "fastio/copy_loop.pxi"
include "fastio/copy_face.pxi"
include "fastio/copy_verify.pxi"

include "fastio/brisk.pxi"
include "fastio/load_types.pxi"
include "fastio/load_send.pxi"
include "fastio/load_receive.pxi"
include "fastio/load_dial.pxi"
include "fastio/load_loop.pxi"
include "fastio/load_face.pxi"

include "fastio/server.pxi"
