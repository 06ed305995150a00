/* fdatasync for a test: a byte in $SYNCS for each call, and EIO while $SYNC_FAILS exists. Loaded by LD_PRELOAD. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int fd)
{
    int count = open(getenv("SYNCS"), O_WRONLY | O_APPEND);
    (void)fd;
    if (count < 0 || write(count, "s", 1) != 1)
        abort();
    close(count);
    if (access(getenv("SYNC_FAILS"), F_OK) == 0) {
        errno = EIO;
        return -1;
    }
    return 0;
}
