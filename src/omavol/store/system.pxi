# What the store needs of the system, and two things that C says better.

cdef extern from "<fcntl.h>" nogil:
    enum:
        F_GETFL
        O_CLOEXEC
        O_DIRECT
        O_RDONLY
        FALLOC_FL_KEEP_SIZE
        FALLOC_FL_PUNCH_HOLE
        FALLOC_FL_ZERO_RANGE
        POSIX_FADV_WILLNEED
        SPLICE_F_MOVE
        SPLICE_F_NONBLOCK
    int fallocate(int fd, int mode, off_t offset, off_t length)
    ssize_t splice(int source, off_t *source_at, int into, off_t *into_at, size_t length, unsigned int flags)
    int fcntl(int fd, int command, ...)
    int open(const char *path, int flags)
    int posix_fadvise(int fd, off_t offset, off_t length, int advice)

cdef extern from "<pthread.h>" nogil:
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_result "stat":
        unsigned int st_mode
        unsigned long st_rdev
        off_t st_size
    int fstat(int fd, stat_result *result)
    bint S_ISREG(unsigned int mode)
    bint S_ISBLK(unsigned int mode)

cdef extern from "<sys/sysmacros.h>" nogil:
    unsigned int major(unsigned long device)
    unsigned int minor(unsigned long device)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    enum:
        RWF_NOWAIT
    ssize_t preadv2(int fd, const iovec *into, int count, off_t offset, int flags)

cdef extern from "<sys/statfs.h>" nogil:
    struct statfs_result "statfs":
        long f_type
    int fstatfs(int fd, statfs_result *result)

cdef extern from "<linux/magic.h>" nogil:
    enum:
        HUGETLBFS_MAGIC
        RAMFS_MAGIC
        TMPFS_MAGIC

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, ...)

cdef extern from * nogil:
    """
    #include <linux/fs.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <linux/stat.h>
    #include <string.h>

    /* What offsets of direct I/O on a file must be multiples of (statx(2), STATX_DIOALIGN, Linux 6.1); 0: unknown. */
    static unsigned int oma_direct_block(int fd)
    {
        struct statx facts;
        memset(&facts, 0, sizeof facts);
        if (syscall(SYS_statx, fd, "", 0x1000 /* AT_EMPTY_PATH */, STATX_DIOALIGN, &facts) < 0)
            return 0;
        return facts.stx_mask & STATX_DIOALIGN ? facts.stx_dio_offset_align : 0;
    }

    static unsigned char oma_zeroes[65536] __attribute__((aligned(4096)));
    """
    enum:
        BLKDISCARD
        BLKSSZGET
    unsigned int oma_direct_block(int fd)
    uint8_t *zeroes "oma_zeroes"

cdef extern from "<unistd.h>" nogil:
    enum:
        SEEK_DATA
        SEEK_END
        SEEK_HOLE
    int close(int fd)
    int fdatasync(int fd)
    off_t lseek(int fd, off_t offset, int whence)
    ssize_t pread(int fd, void *into, size_t length, off_t offset)
    ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)

cdef extern from * nogil:
    """
    #define oma_take(flag) (__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE) == 0)
    #define oma_give(flag) __atomic_store_n(flag, 0, __ATOMIC_RELEASE)
    #define oma_grow(count) __atomic_add_fetch(count, 1, __ATOMIC_ACQ_REL)
    #define oma_look(count) __atomic_load_n(count, __ATOMIC_ACQUIRE)
    """
    bint oma_take(int *flag)
    void oma_give(int *flag)
    int oma_grow(int *count)
    int oma_look(const int *count)
