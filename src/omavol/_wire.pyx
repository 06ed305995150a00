# cython: boundscheck=False, wraparound=False
"""The one codec and handshake machine of NBD, for both roles, without I/O: what is fuzzed is what serves.

The loops that move data cimport it (_wire.pxd); nbd/ wraps the faces at its end for people, tests and fuzzers.
Source: the NBD project's protocol document (doc/proto.md); rule numbers (H16, X9, C23…) are those of docs/NBD.md.
"""

include "wire/codec.pxi"
include "wire/judge.pxi"
include "wire/text.pxi"
include "wire/server.pxi"
include "wire/server_options.pxi"
include "wire/server_info.pxi"
include "wire/server_contexts.pxi"
include "wire/server_tls.pxi"
include "wire/client.pxi"
include "wire/client_replies.pxi"
include "wire/faces.pxi"
include "wire/handshake_faces.pxi"
