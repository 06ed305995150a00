/* The C side of failpoint.py: OMA_FAILPOINT("name") dies by SIGKILL there if the environment asks for it.
 *
 * A release build (-DOMA_RELEASE) leaves every trace of it out. The cost otherwise is one test of a static flag.
 */
#ifndef OMA_FAILPOINT_H
#define OMA_FAILPOINT_H

#ifdef OMA_RELEASE
#define OMA_FAILPOINT(name) ((void)0)
#else

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int asked; /* whether the environment asks for a point; from the load of the extension on */
    char name[64];
    int remaining;
} oma_failpoint = {0, "", 1};

__attribute__((constructor)) static void oma_failpoint_look(void)
{
    const char *wanted = getenv("OMA_FAILPOINT");
    if (wanted == NULL || *wanted == '\0')
        return;
    const char *colon = strchr(wanted, ':');
    size_t length = colon ? (size_t)(colon - wanted) : strlen(wanted);
    if (length >= sizeof oma_failpoint.name)
        length = sizeof oma_failpoint.name - 1;
    memcpy(oma_failpoint.name, wanted, length);
    oma_failpoint.remaining = colon ? atoi(colon + 1) : 1;
    oma_failpoint.asked = 1;
}

static void oma_failpoint_reach(const char *name)
{
    if (strcmp(name, oma_failpoint.name) != 0 || __atomic_sub_fetch(&oma_failpoint.remaining, 1, __ATOMIC_SEQ_CST) != 0)
        return;
    const char *log = getenv("OMA_FAILPOINT_LOG");
    int fd = log ? open(log, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
    if (fd >= 0) {
        ssize_t wrote = write(fd, name, strlen(name));
        wrote += write(fd, "\n", 1);
        (void)wrote;
        close(fd);
    }
    kill(getpid(), SIGKILL);
}

#define OMA_FAILPOINT(name)                \
    do {                                   \
        if (oma_failpoint.asked)           \
            oma_failpoint_reach(name);     \
    } while (0)

#endif
#endif
