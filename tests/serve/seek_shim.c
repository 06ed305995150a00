/* SEEK_DATA and SEEK_HOLE of a file system whose extents end anywhere, for a test: of every 10000 bytes the first 5000
 * are data. Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>

enum { PERIOD = 10000, DATA = 5000 };

off_t lseek(int fd, off_t offset, int whence)
{
    off_t begin = offset - offset % PERIOD, within = offset % PERIOD;
    if (whence == SEEK_DATA)
        return within < DATA ? offset : begin + PERIOD;
    if (whence == SEEK_HOLE)
        return within < DATA ? begin + DATA : offset;
    return syscall(SYS_lseek, fd, offset, whence);
}

off_t lseek64(int fd, off_t offset, int whence)
{
    return lseek(fd, offset, whence);
}
