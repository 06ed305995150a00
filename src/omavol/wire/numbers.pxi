# Every number of the protocol (proto.md, "Values"); nbd/wire.py holds them for people, a test compares the two.

cdef enum:
    REQUEST_MAGIC = 0x25609513
    SIMPLE_MAGIC = 0x67446698
    CHUNK_MAGIC = 0x668e33ef
    EXTENDED_REQUEST_MAGIC = 0x21e41c71
    EXTENDED_REPLY_MAGIC = 0x6e8a278c

cdef enum:
    REQUEST_SIZE = 28
    EXTENDED_REQUEST_SIZE = 32
    SIMPLE_REPLY_SIZE = 16
    CHUNK_SIZE = 20
    DATA_CHUNK_SIZE = 28        # the header and the offset; data follows
    HOLE_CHUNK_SIZE = 32
    ERROR_CHUNK_SIZE = 26       # the message follows
    ERROR_OFFSET_CHUNK_SIZE = 34
    STATUS_CHUNK_SIZE = 24      # the header and the context id; descriptors follow
    DESCRIPTOR_SIZE = 8
    EXTENDED_CHUNK_SIZE = 32    # its payload begins here; but for block status it is that of a structured reply
    EXTENDED_DESCRIPTOR_SIZE = 16
    STATUS_CHUNK_MOST = 40      # the longer of the two headers of a block status chunk
    STATUS_PAYLOAD_SIZE = 8     # the effect length in the payload of BLOCK_STATUS; context ids follow

cdef enum:
    MAXIMUM_STRING = 4096
    DEFAULT_MAXIMUM = 33554432          # payload without INFO_BLOCK_SIZE
    SURELY_NO_ATTACK = 33554432         # 2^25: a payload up to here is consumed, whatever the maximum (X15)
    MAXIMUM_DF = 65536                  # a READ with DF works up to here (X35)
    HANDSHAKE_BUFFER = 16384            # bytes of received data a handshake may ask to see at once
    HANDSHAKE_ROOM = 16384              # bytes of output a step may want at once
    MAXIMUM_SKIP = 1048576              # longest option whose data is read and dropped; a longer one ends the session
    MAXIMUM_OPTIONS = 4096              # in a session: `qemu-nbd --list` asks twice for each export
    MAXIMUM_REFUSALS = 64               # options answered by an error
    MAXIMUM_REPLIES = 65536             # a client reads for one option
    MAXIMUM_CONTEXTS = 8                # selected at once
    ALLOCATION_CONTEXT = 1              # the id our server gives base:allocation

cdef enum:
    CMD_READ = 0
    CMD_WRITE = 1
    CMD_DISC = 2
    CMD_FLUSH = 3
    CMD_TRIM = 4
    CMD_CACHE = 5
    CMD_WRITE_ZEROES = 6
    CMD_BLOCK_STATUS = 7
    CMD_RESIZE = 8

cdef enum:
    CMD_FLAG_FUA = 1
    CMD_FLAG_NO_HOLE = 2
    CMD_FLAG_DF = 4
    CMD_FLAG_REQ_ONE = 8
    CMD_FLAG_FAST_ZERO = 16
    CMD_FLAG_PAYLOAD_LEN = 32

cdef enum:
    CHUNK_NONE = 0
    CHUNK_OFFSET_DATA = 1
    CHUNK_OFFSET_HOLE = 2
    CHUNK_BLOCK_STATUS = 5
    CHUNK_BLOCK_STATUS_EXT = 6
    CHUNK_ERROR = 0x8001
    CHUNK_ERROR_OFFSET = 0x8002
    REPLY_DONE = 1

cdef enum:
    NBD_EPERM = 1
    NBD_EIO = 5
    NBD_ENOMEM = 12
    NBD_EINVAL = 22
    NBD_ENOSPC = 28
    NBD_EOVERFLOW = 75
    NBD_ENOTSUP = 95
    NBD_ESHUTDOWN = 108

cdef enum:
    TX_HAS_FLAGS = 1
    TX_READ_ONLY = 2
    TX_SEND_FLUSH = 4
    TX_SEND_FUA = 8
    TX_ROTATIONAL = 16
    TX_SEND_TRIM = 32
    TX_SEND_WRITE_ZEROES = 64
    TX_SEND_DF = 128
    TX_CAN_MULTI_CONN = 256
    TX_SEND_RESIZE = 512
    TX_SEND_CACHE = 1024
    TX_SEND_FAST_ZERO = 2048
    TX_BLOCK_STATUS_PAYLOAD = 4096

cdef enum:
    STATE_HOLE = 1
    STATE_ZERO = 2
    STATE_DIRTY = 1             # of qemu:dirty-bitmap:NAME

cdef enum:
    GREETING_MAGIC = 0x4e42444d41474943     # "NBDMAGIC"
    OPTION_MAGIC = 0x49484156454f5054       # "IHAVEOPT"
    OLDSTYLE_MAGIC = 0x00420281861253
    OPTION_REPLY_MAGIC = 0x0003e889045565a9

cdef enum:
    GREETING_SIZE = 18
    OPTION_SIZE = 16            # an option's header
    OPTION_REPLY_SIZE = 20      # the header of an answer to it
    EXPORT_NAME_REPLY_SIZE = 10
    ZEROES = 124                # follow EXPORT_NAME's answer unless NO_ZEROES was agreed

cdef enum:
    FLAG_FIXED_NEWSTYLE = 1     # handshake and client flags are the same
    FLAG_NO_ZEROES = 2

cdef enum:
    OPT_EXPORT_NAME = 1
    OPT_ABORT = 2
    OPT_LIST = 3
    OPT_STARTTLS = 5
    OPT_INFO = 6
    OPT_GO = 7
    OPT_STRUCTURED_REPLY = 8
    OPT_LIST_META_CONTEXT = 9
    OPT_SET_META_CONTEXT = 10
    OPT_EXTENDED_HEADERS = 11

cdef enum:
    REP_ACK = 1
    REP_SERVER = 2
    REP_INFO = 3
    REP_META_CONTEXT = 4
    REP_ERROR = 0x80000000      # the bit that all errors have
    REP_ERR_UNSUP = 0x80000001
    REP_ERR_POLICY = 0x80000002
    REP_ERR_INVALID = 0x80000003
    REP_ERR_PLATFORM = 0x80000004
    REP_ERR_TLS_REQD = 0x80000005
    REP_ERR_UNKNOWN = 0x80000006
    REP_ERR_SHUTDOWN = 0x80000007
    REP_ERR_BLOCK_SIZE_REQD = 0x80000008
    REP_ERR_TOO_BIG = 0x80000009
    REP_ERR_EXT_HEADER_REQD = 0x8000000a

cdef enum:
    INFO_EXPORT = 0
    INFO_NAME = 1
    INFO_DESCRIPTION = 2
    INFO_BLOCK_SIZE = 3
