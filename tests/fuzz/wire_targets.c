/* The codec and both handshakes of _wire.pyx as targets of a fuzzer: the very C that serves, without Python.
 *
 * Every buffer handed in is as long as what is said to be in it, so a sanitizer sees a byte read or written too much.
 * What holds for every input is checked here and ends the process: progress, bounds, "split or whole is the same",
 * nothing entered that was not looked up, nothing allowed that leaves the export. One file of the corpus is one input;
 * its first bytes (struct Plan) choose options, the rest is what the peer says.
 */
#include "_wire.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL(name) __pyx_f_6omavol_5_wire_##name
#define TYPE(name) __pyx_t_6omavol_5_wire_##name
#define NUMBER(name) __pyx_e_6omavol_5_wire_##name
#define HOLDS(law) do { if (!(law)) { fprintf(stderr, "%s:%d: broken law: %s\n", __FILE__, __LINE__, #law); abort(); } } while (0)

typedef struct TYPE(ServerHandshake) Server;
typedef struct TYPE(ClientHandshake) Client;
typedef struct TYPE(ExportFacts) Facts;
typedef struct TYPE(Request) Request;
typedef struct TYPE(Reply) Reply;
typedef struct TYPE(Negotiated) Negotiated;

enum { PLAN = 8, STEPS = 200000 };

typedef struct Said {               /* what a machine said in all, and how it ended */
    uint64_t hash;
    size_t wrote, used;
    int ended;
} Said;

typedef struct Machine {
    void *shake;
    size_t capacity, room;
    int (*step)(struct Machine *, const uint8_t *, size_t, size_t *, uint8_t *, size_t *);
    const uint8_t *plan;
    unsigned questions, entered;
} Machine;

static uint64_t mix(uint64_t hash, const uint8_t *data, size_t length)
{
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ data[i]) * 0x100000001b3u;
    return hash;
}

static void touch(const uint8_t *data, size_t length)
{
    static volatile uint64_t seen;
    seen = mix(seen, data, length);
}

/* Feed `data` in pieces of at most `piece` bytes (or growing by `piece`'s bits), as a receive buffer would hold it. */
static Said feed(Machine *machine, const uint8_t *data, size_t length, size_t piece)
{
    Said said = {14695981039346656037u, 0, 0, NUMBER(NEXT_MORE)};
    size_t have = 0, steps = 0;
    uint8_t *out = malloc(machine->room);
    for (;;) {
        size_t used = 0, wrote = 0;
        uint8_t *held = malloc(have ? have : 1);
        memcpy(held, data + said.used, have);
        int next = machine->step(machine, held, have, &used, out, &wrote);
        free(held);
        HOLDS(used <= have && wrote <= machine->room);
        HOLDS(++steps < STEPS);
        said.hash = mix(said.hash, out, wrote);
        said.wrote += wrote;
        said.used += used;
        have -= used;
        said.ended = next;
        if (next == NUMBER(NEXT_SEND) || next == NUMBER(NEXT_SEEN)) {
            HOLDS(used || wrote || next == NUMBER(NEXT_SEEN));
            continue;
        }
        if (next == NUMBER(NEXT_ANSWERED))
            continue;                               /* the step has asked the next question */
        if (next != NUMBER(NEXT_MORE))
            break;
        HOLDS(have < machine->capacity);            /* a full buffer always holds something that can be taken */
        size_t left = length - said.used - have;
        size_t more = machine->capacity - have;
        if (left == 0)
            break;
        more = more < left ? more : left;
        have += more < piece ? more : piece;
    }
    free(out);
    return said;
}

/* ---- the server's handshake ---- */

static const char *const NAMES[] = {"", "a", "disk", "\xc3\xa9t\xc3\xa9"};

static int find(void *owner, const uint8_t *name, uint32_t length, int enter, Facts *facts)
{
    Machine *machine = owner;
    touch(name, length);
    for (unsigned i = 0; i < 4; i++)
        if (strlen(NAMES[i]) == length && memcmp(NAMES[i], name, length) == 0) {
            facts->size = i ? (uint64_t)machine->plan[3] << (8 * i) : 0;
            facts->flags = (uint16_t)(machine->plan[4] << 4 | machine->plan[5]);
            facts->description = i & 1 ? "a disk of the tests" : NULL;
            facts->tls_only = i == 3;
            machine->entered += enter;
            return 0;
        }
    return (int)NUMBER(REP_ERR_UNKNOWN);
}

static int name_export(void *owner, uint32_t index, uint8_t *name, uint32_t *length)
{
    Machine *machine = owner;
    if (machine->plan[2] & 1)
        return (int)NUMBER(REP_ERR_POLICY);
    if (index >= 4)
        return 1;
    *length = (uint32_t)strlen(NAMES[index]);
    memcpy(name, NAMES[index], *length);
    return 0;
}

static int name_context(
    void *owner, const uint8_t *export, uint32_t export_length, uint32_t index, uint8_t *name, uint32_t *length, uint32_t *id)
{
    static const char *const contexts[] = {"x-oma:a", "x-oma:b:c", "y:"};
    Machine *machine = owner;
    touch(export, export_length);
    if (index >= (machine->plan[6] & 31u))
        return 1;
    *length = (uint32_t)strlen(contexts[index % 3]);
    memcpy(name, contexts[index % 3], *length);
    *id = 2 + index % 12;
    return 0;
}

static int server_step(Machine *m, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t *wrote)
{
    Server *shake = m->shake;
    shake->shutting_down = (m->plan[2] & 2) != 0;
    int next = CALL(server_handshake_step)(shake, data, have, used, out, m->room, wrote);
    if (next == NUMBER(NEXT_TLS)) {
        HOLDS(shake->tls != NUMBER(TLS_NONE) && !shake->secured && *used == have);
        CALL(server_handshake_secured)(shake);
        HOLDS(!shake->agreed.structured && !shake->agreed.extended && !shake->agreed.contexts);
        return NUMBER(NEXT_ANSWERED);
    }
    HOLDS((next == NUMBER(NEXT_TRANSMIT)) <= (m->entered > 0));     /* nobody enters what was not looked up */
    if (next == NUMBER(NEXT_TRANSMIT)) {
        HOLDS(shake->facts.flags & NUMBER(TX_HAS_FLAGS));
        HOLDS(shake->agreed.structured || !(shake->facts.flags & NUMBER(TX_SEND_DF)));
        HOLDS(shake->agreed.structured || !(shake->agreed.extended || shake->agreed.contexts));
        HOLDS(!(shake->facts.flags & NUMBER(TX_BLOCK_STATUS_PAYLOAD)) || (shake->agreed.extended && shake->agreed.contexts));
        HOLDS(!(shake->agreed.extended && shake->compact));
        HOLDS(shake->secured || (shake->tls != NUMBER(TLS_FORCED) && !shake->facts.tls_only));
        HOLDS(shake->agreed.contexts <= NUMBER(MAXIMUM_CONTEXTS));
        for (unsigned i = 0; i < shake->agreed.contexts; i++)
            for (unsigned k = 0; k < i; k++)
                HOLDS(shake->agreed.ids[i] != shake->agreed.ids[k]);
    }
    return next;
}

static Said serve(const uint8_t *plan, const uint8_t *data, size_t length, size_t piece)
{
    Server shake;
    Machine machine = {&shake, NUMBER(HANDSHAKE_BUFFER), NUMBER(HANDSHAKE_ROOM), server_step, plan, 0, 0};
    CALL(server_handshake_begin)(&shake, &machine, find, name_export);
    shake.name_context = name_context;
    shake.compact = (plan[2] & 4) != 0;
    shake.tls = (plan[2] >> 3) % 3;
    return feed(&machine, data, length, piece);
}

static void server(const uint8_t *plan, const uint8_t *data, size_t length)
{
    Said whole = serve(plan, data, length, SIZE_MAX), split = serve(plan, data, length, 1 + plan[0]);
    if ((plan[2] >> 3) % 3 != NUMBER(TLS_NONE))
        return;                     /* what stands behind STARTTLS ends a session or not by when it came (T12) */
    HOLDS(whole.hash == split.hash && whole.wrote == split.wrote && whole.ended == split.ended);
    HOLDS(whole.used == split.used);
}

/* ---- the client's handshake ---- */

static int client_step(Machine *m, const uint8_t *data, size_t have, size_t *used, uint8_t *out, size_t *wrote)
{
    Client *shake = m->shake;
    int next = CALL(client_handshake_step)(shake, data, have, used, out, m->room, wrote);
    if (next == NUMBER(NEXT_TLS)) {
        HOLDS(shake->tls != NUMBER(WISH_NEVER) && !shake->secured && *used == have);
        CALL(client_handshake_secured)(shake);
        HOLDS(!shake->agreed.structured && !shake->agreed.extended && !shake->agreed.contexts);
        return NUMBER(NEXT_SEND);
    }
    if (next == NUMBER(NEXT_SEEN)) {
        HOLDS(shake->text >= data && shake->text + shake->text_length <= data + *used);
        HOLDS(shake->text_length <= NUMBER(MAXIMUM_STRING) && shake->more_length <= NUMBER(MAXIMUM_STRING));
        touch(shake->text, shake->text_length);
        touch(shake->more, shake->more_length);
    }
    if (next == NUMBER(NEXT_ANSWERED)) {
        touch(shake->text, shake->text_length);
        unsigned goal = m->questions < 4 ? (m->plan[3 + m->questions] & 15) % 5 : NUMBER(GOAL_ABORT);
        m->questions++;
        CALL(client_handshake_ask)(shake, goal, (const uint8_t *)NAMES[goal & 3], (uint32_t)strlen(NAMES[goal & 3]));
    }
    if (next == NUMBER(NEXT_TRANSMIT)) {
        HOLDS(shake->has_export && shake->facts.size >> 63 == 0 && shake->facts.flags & NUMBER(TX_HAS_FLAGS));
        HOLDS(!shake->sizes_told || shake->facts.minimum);
        HOLDS(shake->structured != NUMBER(WISH_DEMANDED) || shake->agreed.structured);
        HOLDS(shake->extended != NUMBER(WISH_DEMANDED) || shake->agreed.extended);
        HOLDS(shake->tls != NUMBER(WISH_DEMANDED) || shake->secured);
        HOLDS(shake->agreed.structured || !shake->agreed.extended);
        HOLDS(shake->agreed.contexts <= shake->context_count);
    }
    return next;
}

static Said ask(const uint8_t *plan, const uint8_t *data, size_t length, size_t piece)
{
    static const char *const contexts[] = {"base:allocation", "qemu:dirty-bitmap:a", "x:y"};
    Client shake;
    Machine machine = {&shake, NUMBER(HANDSHAKE_BUFFER), NUMBER(HANDSHAKE_ROOM), client_step, plan, 0, 0};
    CALL(client_handshake_begin)(&shake, plan[1] % 3);
    shake.extended = plan[7] % 3;
    shake.tls = (plan[7] >> 2) % 3;
    for (unsigned i = 0; i < 3; i++)
        if (plan[1] & 16u << i)
            HOLDS(CALL(client_handshake_want)(&shake, (const uint8_t *)contexts[i], (uint32_t)strlen(contexts[i])) == 0);
    CALL(client_handshake_ask)(&shake, (plan[2] & 15) % 5, (const uint8_t *)"disk", 4);
    return feed(&machine, data, length, piece);
}

static void client(const uint8_t *plan, const uint8_t *data, size_t length)
{
    Said whole = ask(plan, data, length, SIZE_MAX), split = ask(plan, data, length, 1 + plan[0]);
    if ((plan[7] >> 2) % 3 != NUMBER(WISH_NEVER))
        return;                     /* what stands behind STARTTLS's ACK ends a session or not by when it came (T20) */
    HOLDS(whole.hash == split.hash && whole.wrote == split.wrote && whole.ended == split.ended);
}

/* ---- requests and what they may do ---- */

static void exports(const uint8_t *plan, Facts *facts, Negotiated *agreed)
{
    memset(facts, 0, sizeof(*facts));
    memset(agreed, 0, sizeof(*agreed));
    facts->size = plan[0] >= 64 ? UINT64_MAX >> (plan[0] & 63) : (uint64_t)1 << plan[0];
    facts->flags = (uint16_t)(plan[1] << 4 | plan[2]);
    facts->minimum = plan[3] & 1 ? 1u << (plan[3] >> 4) : 0;
    facts->maximum = plan[3] & 2 ? 1u << 20 : 0;
    agreed->structured = plan[4] & 1;
    agreed->extended = agreed->structured && plan[4] & 4;
    agreed->contexts = plan[4] & 2 ? 1 + (plan[4] >> 4) % 8 : 0;
    for (unsigned i = 0; i < agreed->contexts; i++)
        agreed->ids[i] = 1 + i;
}

static void allowed(const Request *request, const Facts *facts, const Negotiated *agreed)
{
    int changes = request->type == NUMBER(CMD_WRITE) || request->type == NUMBER(CMD_TRIM)
        || request->type == NUMBER(CMD_WRITE_ZEROES);
    HOLDS(request->type <= NUMBER(CMD_BLOCK_STATUS));
    HOLDS(!(changes && facts->flags & NUMBER(TX_READ_ONLY)));
    HOLDS(request->type != NUMBER(CMD_BLOCK_STATUS) || agreed->contexts);
    if (request->type == NUMBER(CMD_FLUSH) || request->type == NUMBER(CMD_DISC))
        return;
    HOLDS(request->length && (unsigned __int128)request->offset + request->length <= facts->size);
    HOLDS(!facts->minimum || ((request->offset | request->length) & (facts->minimum - 1)) == 0);
    HOLDS(request->type != NUMBER(CMD_WRITE) || request->length <= NUMBER(DEFAULT_MAXIMUM));
}

/* The payload of a BLOCK_STATUS, if it is all there: bytes taken. */
static size_t status(Request *request, const uint8_t *data, size_t have, const Facts *facts, const Negotiated *agreed)
{
    size_t size = (size_t)request->payload;
    uint32_t chosen;
    HOLDS(size <= 8 + 4 * NUMBER(MAXIMUM_CONTEXTS));
    if (have < size)
        return have;
    uint8_t *held = malloc(size);
    memcpy(held, data, size);
    if (CALL(judge_status_payload)(request, held, facts, agreed, &chosen) == 0) {
        HOLDS((unsigned)__builtin_popcount(chosen) == (size - 8) / 4 && chosen >> agreed->contexts == 0);
        allowed(request, facts, agreed);
    }
    free(held);
    return size;
}

static void requests(const uint8_t *plan, const uint8_t *data, size_t length)
{
    Facts facts;
    Negotiated agreed;
    Request request;
    uint8_t again[NUMBER(EXTENDED_REQUEST_SIZE)];
    exports(plan, &facts, &agreed);
    size_t size = agreed.extended ? NUMBER(EXTENDED_REQUEST_SIZE) : NUMBER(REQUEST_SIZE), more = 0;
    for (size_t at = 0; at <= length; at += size + more) {
        size_t have = length - at < size ? length - at : size;
        uint8_t *held = malloc(have ? have : 1);
        memcpy(held, data + at, have);
        int parsed = CALL(parse_request)(held, have, agreed.extended, &request);
        HOLDS(parsed != NUMBER(PARSED) || have == size);
        more = 0;
        if (parsed == NUMBER(PARSED)) {
            int write = agreed.extended && request.type == NUMBER(CMD_WRITE);
            HOLDS(CALL(encode_request)(again, agreed.extended, &request) == size);
            HOLDS(memcmp(again, held, 4) == 0 && memcmp(again + 6, held + 6, size - 6) == 0);
            HOLDS(write || memcmp(again, held, 6) == 0);
            HOLDS(request.payload == 0 || request.payload == request.length);
            if (CALL(judge)(&request, &facts, &agreed) == 0) {
                if (request.type == NUMBER(CMD_BLOCK_STATUS) && request.payload)
                    more = status(&request, data + at + have, length - at - have, &facts, &agreed);
                else
                    allowed(&request, &facts, &agreed);
            }
        }
        free(held);
        if (parsed == NUMBER(BAD_MAGIC))
            return;
    }
}

/* ---- replies and what they may say ---- */

static void replies(const uint8_t *plan, const uint8_t *data, size_t length)
{
    Request asked = {0};
    Reply reply;
    size_t at = 0;
    asked.type = plan[0] % 9;
    asked.length = (uint64_t)plan[1] << (plan[2] & 31);
    unsigned form = plan[3] % 3;
    size_t most = form == NUMBER(FORM_EXTENDED) ? NUMBER(EXTENDED_CHUNK_SIZE) : NUMBER(CHUNK_SIZE);
    while (at <= length) {
        size_t have = length - at < most ? length - at : most;
        uint8_t *held = malloc(have ? have : 1);
        memcpy(held, data + at, have);
        int parsed = CALL(parse_reply)(held, have, form, &reply);
        free(held);
        if (parsed != NUMBER(PARSED))
            return;
        HOLDS(!reply.structured || form != NUMBER(FORM_SIMPLE));
        HOLDS(!reply.extended == (form != NUMBER(FORM_EXTENDED)));
        size_t size = reply.structured ? most : NUMBER(SIMPLE_REPLY_SIZE);
        HOLDS(size <= have);
        if (CALL(judge_chunk)(&reply, &asked) && reply.structured) {
            HOLDS(reply.type != NUMBER(CHUNK_NONE) || (reply.flags & NUMBER(REPLY_DONE) && !reply.length));
            HOLDS(reply.type != NUMBER(CHUNK_OFFSET_DATA) || (asked.type == NUMBER(CMD_READ) && reply.length - 8 <= asked.length));
            HOLDS(reply.type & 0x8000 || reply.type <= NUMBER(CHUNK_BLOCK_STATUS_EXT));
            HOLDS(!(reply.type & 0x8000) || reply.length <= 1u << 16);
            HOLDS(!reply.extended || (reply.offset == asked.offset && reply.type != NUMBER(CHUNK_BLOCK_STATUS)));
            HOLDS(reply.type != NUMBER(CHUNK_BLOCK_STATUS_EXT) || reply.length <= NUMBER(DEFAULT_MAXIMUM));
        }
        at += size;
    }
}

/* ---- what a fuzzer calls ---- */

static const struct { const char *name; void (*run)(const uint8_t *, const uint8_t *, size_t); } TARGETS[] = {
    {"server", server}, {"client", client}, {"requests", requests}, {"replies", replies},
};
static void (*target)(const uint8_t *, const uint8_t *, size_t);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *wanted = getenv("FUZZ_TARGET");
    (void)argc, (void)argv;
    for (size_t i = 0; wanted && i < sizeof(TARGETS) / sizeof(*TARGETS); i++)
        if (strcmp(TARGETS[i].name, wanted) == 0)
            target = TARGETS[i].run;
    if (!target) {
        fprintf(stderr, "FUZZ_TARGET is one of: server client requests replies\n");
        exit(2);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    uint8_t plan[PLAN] = {0};
    size_t planned = length < PLAN ? length : PLAN;
    memcpy(plan, data, planned);
    target(plan, data + planned, length - planned);
    return 0;
}
