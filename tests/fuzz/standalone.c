/* A small coverage-guided fuzzer for where clang's is not installed (CI): gcc's -fsanitize-coverage=trace-pc tells it
 * which edges an input took. Same targets, same corpus, same sanitizers as libFuzzer; slower to find, quick to build.
 *
 *     FUZZ_TARGET=server fuzz SECONDS SEED CORPUS_DIRECTORY [KEEP_DIRECTORY]
 *
 * Runs every file of the corpus, then mutates what it has until the time is over; with KEEP_DIRECTORY an input that
 * reached something new is written there. A broken law or a sanitizer ends it; the input is left in ./fuzz-found.
 */
#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);
void __sanitizer_set_death_callback(void (*callback)(void));

enum { LONGEST = 40000, KEPT = 4096, EDGES = 1 << 16, PLAN = 8 };

static struct { uint8_t *data; size_t length; } kept[KEPT];
static size_t count, reached;
static uint8_t edge[EDGES], now[LONGEST];
static size_t now_length;
static int news;
static uint64_t luck;

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    uint8_t *seen = &edge[(pc ^ pc >> 16) % EDGES];
    news |= !*seen;
    reached += !*seen;
    *seen = 1;
}

static uint32_t roll(uint32_t sides)
{
    luck ^= luck << 13;
    luck ^= luck >> 7;
    luck ^= luck << 17;
    return (uint32_t)(luck >> 11) % sides;
}

static void found(void)
{
    FILE *file = fopen("fuzz-found", "wb");
    if (file) {
        fwrite(now, 1, now_length, file);
        fclose(file);
    }
    static const char text[] = "the input that did it is in ./fuzz-found\n";
    if (write(2, text, sizeof(text) - 1) < 0)
        _exit(3);
}

static void aborted(int number)
{
    found();
    signal(number, SIG_DFL);
    raise(number);
}

static void run(const char *keep)
{
    news = 0;
    LLVMFuzzerTestOneInput(now, now_length);
    if (!news || count == KEPT)
        return;
    kept[count].data = malloc(now_length ? now_length : 1);
    memcpy(kept[count].data, now, now_length);
    kept[count++].length = now_length;
    if (keep) {
        char path[PATH_MAX];
        snprintf(path, sizeof(path), "%s/%016llx", keep, (unsigned long long)luck);
        FILE *file = fopen(path, "wb");
        if (file) {
            fwrite(now, 1, now_length, file);
            fclose(file);
        }
    }
}

static size_t replay(const char *folder)
{
    DIR *files = opendir(folder);
    size_t ran = 0;
    for (struct dirent *each; files && (each = readdir(files));) {
        char path[PATH_MAX];
        if (each->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, each->d_name);
        FILE *file = fopen(path, "rb");
        if (!file)
            continue;
        now_length = fread(now, 1, sizeof(now), file);
        fclose(file);
        run(NULL);
        ran++;
    }
    if (files)
        closedir(files);
    return ran;
}

static void set_number(size_t at)
{
    static const uint32_t telling[] = {0, 1, 2, 8, 0x7fffffff, 0x80000000, 0xffffffff, 4096, 4097, 16384, 1 << 25};
    uint32_t number = telling[roll(sizeof(telling) / sizeof(*telling))];
    for (int i = 0; i < 4 && at + 4 <= now_length; i++)
        now[at + (size_t)i] = (uint8_t)(number >> (24 - 8 * i));
}

static void cut(size_t at, size_t some)
{
    if (now_length > at + some) {
        memmove(now + at, now + at + some, now_length - at - some);
        now_length -= some;
    }
}

static void repeat(size_t at, size_t some)
{
    if (now_length > at && now_length + some < LONGEST) {
        memmove(now + at + some, now + at, now_length - at);
        now_length += some;
    }
}

/* Behind what is there, what another input has its peer say. */
static void append(size_t other)
{
    if (kept[other].length > PLAN && now_length + kept[other].length < LONGEST) {
        memcpy(now + now_length, kept[other].data + PLAN, kept[other].length - PLAN);
        now_length += kept[other].length - PLAN;
    }
}

static void mutate(void)
{
    size_t chosen = roll((uint32_t)count);
    now_length = kept[chosen].length;
    memcpy(now, kept[chosen].data, now_length);
    for (uint32_t times = 1 + roll(4); times; times--) {
        size_t at = now_length ? roll((uint32_t)now_length) : 0;
        switch (roll(6)) {
        case 0: now[at] ^= (uint8_t)(1 << roll(8)); break;
        case 1: now[at] = (uint8_t)roll(256); break;
        case 2: set_number(at); break;
        case 3: cut(at, 1 + roll(32)); break;
        case 4: repeat(at, 1 + roll(32)); break;
        default: append(roll((uint32_t)count));
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "fuzz SECONDS SEED CORPUS [KEEP]\n");
        return 2;
    }
    LLVMFuzzerInitialize(&argc, &argv);
    __sanitizer_set_death_callback(found);
    signal(SIGABRT, aborted);
    luck = strtoull(argv[2], NULL, 0) * 2 + 0x9e3779b97f4a7c15u;
    run(NULL);
    size_t files = replay(argv[3]), runs = 0;
    time_t end = time(NULL) + atol(argv[1]);
    while (time(NULL) < end)
        for (int i = 0; i < 64; i++, runs++) {
            mutate();
            run(argc > 4 ? argv[4] : NULL);
        }
    printf("%zu files, %zu mutations, %zu edges\n", files, runs, reached);
    return 0;
}
