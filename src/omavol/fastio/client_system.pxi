# What the copying half takes from the system, the hash and the protocol.

from libc.errno cimport (
    EAGAIN,
    EBADF,
    ECONNRESET,
    EINTR,
    EINVAL,
    EIO,
    ENOMEM,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPIPE,
    EPROTO,
    EROFS,
    ETXTBSY,
    EXDEV,
    errno,
)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memmove, memset
from posix.fcntl cimport O_RDONLY, open
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from posix.types cimport off_t
from posix.uio cimport iovec
from posix.unistd cimport SEEK_END, close, fsync, lseek, pread, pwrite

from cpython.bytes cimport PyBytes_FromStringAndSize

from omavol._channel cimport (
    CHANNEL_AGAIN,
    CHANNEL_CLOSED,
    CHANNEL_SHORT,
    CHANNEL_UNREADABLE,
    WAIT_READ,
    WAIT_WRITE,
    Channel,
    SecureChannel,
    TLS_FAILED,
    channel_buffered,
    channel_flush,
    channel_receive,
    channel_send,
    channel_send_file,
    channel_unsent,
    channel_wait,
    tls_state,
    tls_text,
)
from omavol._wire cimport (
    BAD_MAGIC,
    CHUNK_BLOCK_STATUS,
    CHUNK_BLOCK_STATUS_EXT,
    CHUNK_NONE,
    CHUNK_OFFSET_DATA,
    CHUNK_OFFSET_HOLE,
    CHUNK_SIZE,
    CMD_BLOCK_STATUS,
    CMD_DISC,
    CMD_FLAG_NO_HOLE,
    CMD_FLUSH,
    CMD_READ,
    CMD_WRITE,
    CMD_WRITE_ZEROES,
    DESCRIPTOR_SIZE,
    EXTENDED_CHUNK_SIZE,
    EXTENDED_DESCRIPTOR_SIZE,
    EXTENDED_REQUEST_SIZE,
    FORM_EXTENDED,
    FORM_SIMPLE,
    FORM_STRUCTURED,
    NBD_ESHUTDOWN,
    NEED_MORE,
    PARSED,
    REPLY_DONE,
    REQUEST_SIZE,
    SIMPLE_REPLY_SIZE,
    STATE_HOLE,
    STATE_ZERO,
    TX_SEND_FLUSH,
    TX_SEND_WRITE_ZEROES,
    Form,
    Parsed,
    Reply,
    Request,
    be32,
    be64,
    chunk_size,
    encode_request,
    judge_chunk,
    parse_reply,
    request_size,
)

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    enum:
        MSG_DONTWAIT
        MSG_MORE
        MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    enum:
        POLLERR
        POLLHUP
        POLLIN
        POLLOUT
    int poll(pollfd *polled, unsigned long count, int timeout)

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int out, int file, off_t *offset, size_t length)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec *now)

cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_DATA
        SEEK_HOLE
    ssize_t copy_file_range(int source, off_t *at, int destination, off_t *to, size_t length, unsigned int flags)

cdef extern from "<fcntl.h>" nogil:
    enum:
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
        FALLOC_FL_ZERO_RANGE
        O_CLOEXEC
        O_DIRECT
        POSIX_FADV_DONTNEED
        POSIX_FADV_SEQUENTIAL
    int fallocate(int fd, int mode, off_t offset, off_t length)
    int posix_fadvise(int fd, off_t offset, off_t length, int advice)

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **out, size_t alignment, size_t size)

cdef extern from "<sys/vfs.h>" nogil:
    cdef struct file_system_facts "statfs":
        long f_type
    int fstatfs(int fd, file_system_facts *out)

cdef extern from "fastio/digest.h" nogil:
    void digest_of "oma_digest"(const uint8_t *data, size_t length, uint8_t *out)
    void digest_by_sse2 "oma_digest_sse2"(const uint8_t *data, size_t length, uint8_t *out)

cdef extern from "failpoint.h" nogil:
    void OMA_FAILPOINT(const char *name)
