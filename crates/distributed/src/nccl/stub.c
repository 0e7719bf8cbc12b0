// The few functions of CUDA's driver and of NCCL that are called, on the host's memory and with sockets between ranks: for
// tests. What is begun on a stream is done when the stream is asked for the second time. A function whose name is in
// AIOS_STUB_FAIL fails.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { NOT_READY = 600, BAD_VALUE = 1, NO_CONTEXT = 201, NO_DEVICE = 101, OUT_OF_MEMORY = 2 };
enum { SYSTEM_ERROR = 2, BAD_ARGUMENT = 4, BAD_USAGE = 5, REMOTE_ERROR = 6 };

static int fails(const char *name) {
    const char *wanted = getenv("AIOS_STUB_FAIL");
    return wanted && !strcmp(wanted, name);
}

static __thread char last[256] = "";

static int refused(int code, const char *why) {
    snprintf(last, sizeof last, "%s", why);
    return code;
}

// Memory: each allocation is known, so that what lies beyond one is noticed.

struct Block { uintptr_t at; size_t bytes; int device; struct Block *next; };
static struct Block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void *block(size_t bytes, int device) {
    struct Block *new = malloc(sizeof *new);
    void *memory = malloc(bytes);
    memset(memory, 0xab, bytes);
    pthread_mutex_lock(&lock);
    *new = (struct Block){(uintptr_t)memory, bytes, device, blocks};
    blocks = new;
    pthread_mutex_unlock(&lock);
    return memory;
}

static int unblock(uintptr_t at, int device) {
    pthread_mutex_lock(&lock);
    struct Block **place = &blocks;
    while (*place && ((*place)->at != at || (*place)->device != device)) place = &(*place)->next;
    struct Block *found = *place;
    if (found) *place = found->next;
    pthread_mutex_unlock(&lock);
    if (!found) return BAD_VALUE;
    free((void *)at);
    free(found);
    return 0;
}

static int within(uintptr_t at, size_t bytes, int device) {
    pthread_mutex_lock(&lock);
    struct Block *b = blocks;
    while (b && !(b->device == device && at >= b->at && at + bytes <= b->at + b->bytes)) b = b->next;
    pthread_mutex_unlock(&lock);
    return b != NULL;
}

// Streams.

struct Comm { int rank, size, error, *to; };

struct Op {
    int kind; // 0: copy; else a collective.
    void *to;
    const void *from;
    size_t bytes; // Of this rank's share.
    int root;
    struct Comm *comm;
    struct Op *next;
};

struct Stream { struct Op *first, **end; int asked, broken; };

static __thread int device = -1;

static int begin(struct Stream *stream, struct Op op) {
    struct Op *new = malloc(sizeof *new);
    *new = op;
    new->next = NULL;
    *stream->end = new;
    stream->end = &new->next;
    stream->asked = 0;
    return 0;
}

int cuInit(unsigned flags) { return fails("cuInit") ? 100 : flags; }

int cuDeviceGet(int *to, int index) {
    if (fails("cuDeviceGet") || index < 0 || index >= 8) return NO_DEVICE;
    *to = index;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int of) {
    if (fails("cuDevicePrimaryCtxRetain")) return OUT_OF_MEMORY;
    *context = (void *)(intptr_t)(of + 1);
    return 0;
}

int cuDevicePrimaryCtxRelease_v2(int of) { return of < 0; }

int cuCtxSetCurrent(void *context) {
    if (fails("cuCtxSetCurrent")) return NO_CONTEXT;
    device = (int)(intptr_t)context - 1;
    return 0;
}

int cuMemAlloc_v2(uint64_t *to, size_t bytes) {
    if (device < 0) return NO_CONTEXT;
    if (fails("cuMemAlloc")) return OUT_OF_MEMORY;
    *to = (uintptr_t)block(bytes, 1);
    return 0;
}

int cuMemFree_v2(uint64_t at) { return unblock(at, 1); }

int cuMemHostAlloc(void **to, size_t bytes, unsigned flags) {
    if (device < 0) return NO_CONTEXT;
    if (fails("cuMemHostAlloc")) return OUT_OF_MEMORY;
    *to = block(bytes, 0);
    return flags;
}

int cuMemFreeHost(void *at) { return unblock((uintptr_t)at, 0); }

int cuStreamCreate(struct Stream **to, unsigned flags) {
    if (device < 0) return NO_CONTEXT;
    if (fails("cuStreamCreate") || flags != 1) return BAD_VALUE;
    *to = calloc(1, sizeof **to);
    (*to)->end = &(*to)->first;
    return 0;
}

int cuStreamDestroy_v2(struct Stream *stream) {
    free(stream);
    return 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, struct Stream *stream) {
    if (fails("cuMemcpyHtoDAsync")) return BAD_VALUE;
    if (!within(to, bytes, 1) || !within((uintptr_t)from, bytes, 0)) return BAD_VALUE;
    return begin(stream, (struct Op){0, (void *)to, from, bytes, 0, NULL, NULL});
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, struct Stream *stream) {
    if (fails("cuMemcpyDtoHAsync")) return BAD_VALUE;
    if (!within(from, bytes, 1) || !within((uintptr_t)to, bytes, 0)) return BAD_VALUE;
    return begin(stream, (struct Op){0, to, (const void *)from, bytes, 0, NULL, NULL});
}

static int perform(struct Op *op);

int cuStreamQuery(struct Stream *stream) {
    if (fails("cuStreamQuery")) return 700;
    if (stream->broken || (stream->first && !stream->asked++)) return NOT_READY;
    while (stream->first) {
        struct Op *op = stream->first;
        if (perform(op)) {
            op->comm->error = REMOTE_ERROR;
            stream->broken = 1;
            return NOT_READY;
        }
        stream->first = op->next;
        free(op);
    }
    stream->end = &stream->first;
    return 0;
}

int cuGetErrorString(int code, const char **to) {
    *to = code == OUT_OF_MEMORY ? "out of\nmemory" : "stub error";
    return 0;
}

// NCCL. Rank 0 listens where the number says, gathers what each brings, and gives it to all.

struct Id { char bytes[128]; };
enum { REDUCE = 1, SCATTER, GATHER, BROADCAST };

int ncclGetVersion(int *to) {
    const char *wanted = getenv("AIOS_STUB_VERSION");
    *to = wanted ? atoi(wanted) : 22703;
    return fails("ncclGetVersion") ? SYSTEM_ERROR : 0;
}

static struct sockaddr_un place(struct Id id) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    memcpy(at.sun_path, id.bytes + sizeof(int), sizeof at.sun_path - 1);
    return at;
}

int ncclGetUniqueId(struct Id *id) {
    static int count;
    if (fails("ncclGetUniqueId")) return refused(SYSTEM_ERROR, "no interface\nis found");
    memset(id, 0, sizeof *id);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), number = __sync_fetch_and_add(&count, 1);
    const char *folder = getenv("AIOS_STUB_FOLDER");
    memcpy(id->bytes, &fd, sizeof fd);
    snprintf(id->bytes + sizeof fd, 100, "%s/%d-%d", folder ? folder : "/tmp", (int)getpid(), number);
    struct sockaddr_un at = place(*id);
    unlink(at.sun_path);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 64)) return SYSTEM_ERROR;
    return 0;
}

static int sent(int fd, const void *from, size_t bytes) {
    for (ssize_t n; bytes; from = (const char *)from + n, bytes -= n)
        if ((n = send(fd, from, bytes, MSG_NOSIGNAL)) <= 0) return 1;
    return 0;
}

static int received(int fd, void *to, size_t bytes) {
    for (ssize_t n; bytes; to = (char *)to + n, bytes -= n)
        if ((n = read(fd, to, bytes)) <= 0) return 1;
    return 0;
}

int ncclCommInitRank(struct Comm **to, int size, struct Id id, int rank) {
    if (device < 0) return BAD_USAGE;
    if (fails("ncclCommInitRank")) return SYSTEM_ERROR;
    struct Comm *comm = calloc(1, sizeof *comm);
    *comm = (struct Comm){rank, size, 0, calloc(size, sizeof(int))};
    struct sockaddr_un at = place(id);
    if (rank) {
        comm->to[0] = socket(AF_UNIX, SOCK_STREAM, 0);
        if (connect(comm->to[0], (struct sockaddr *)&at, sizeof at)) return REMOTE_ERROR;
        if (sent(comm->to[0], &rank, sizeof rank)) return REMOTE_ERROR;
    } else {
        int door, other;
        memcpy(&door, id.bytes, sizeof door);
        for (int k = 1; k < size; k++) {
            int fd = accept(door, NULL, NULL);
            if (received(fd, &other, sizeof other) || other < 1 || other >= size) return REMOTE_ERROR;
            comm->to[other] = fd;
        }
        close(door);
        unlink(at.sun_path);
    }
    *to = comm;
    return 0;
}

// All shares, by rank; NULL if another rank is gone or does something else.
static char *exchange(struct Op *op) {
    struct Comm *comm = op->comm;
    char *all = malloc(op->bytes * comm->size + 1);
    size_t own[3] = {op->kind, op->bytes, op->root}, head[3];
    int bad = 0;
    memcpy(all + op->bytes * comm->rank, op->from, op->bytes);
    if (comm->rank) {
        bad = sent(comm->to[0], own, sizeof own) || sent(comm->to[0], op->from, op->bytes) ||
              received(comm->to[0], all, op->bytes * comm->size);
    } else {
        for (int k = 1; k < comm->size && !bad; k++)
            bad = received(comm->to[k], head, sizeof head) || memcmp(own, head, sizeof own) ||
                  received(comm->to[k], all + op->bytes * k, op->bytes);
        for (int k = 1; k < comm->size && !bad; k++) bad = sent(comm->to[k], all, op->bytes * comm->size);
    }
    if (!bad) return all;
    free(all);
    return NULL;
}

static void sum(float *to, const char *all, size_t share, size_t first, size_t bytes, int size) {
    for (size_t k = 0; k < bytes / 4; k++) {
        float total = 0;
        for (int r = 0; r < size; r++) total += ((const float *)(all + share * r + first))[k];
        to[k] = total;
    }
}

static int perform(struct Op *op) {
    if (!op->kind) {
        memcpy(op->to, op->from, op->bytes);
        return 0;
    }
    char *all = exchange(op);
    if (!all) return 1;
    size_t share = op->bytes, size = op->comm->size;
    if (op->kind == REDUCE) sum(op->to, all, share, 0, share, size);
    if (op->kind == SCATTER) sum(op->to, all, share, share / size * op->comm->rank, share / size, size);
    if (op->kind == GATHER) memcpy(op->to, all, share * size);
    if (op->kind == BROADCAST) memcpy(op->to, all + share * op->root, share);
    free(all);
    return 0;
}

static int collective(struct Op op, struct Stream *stream, size_t to_bytes) {
    if (!op.comm || !stream) return refused(BAD_ARGUMENT, "no communicator");
    if (!within((uintptr_t)op.from, op.bytes, 1) || !within((uintptr_t)op.to, to_bytes, 1))
        return refused(BAD_ARGUMENT, "beyond its memory");
    return begin(stream, op);
}

int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, struct Comm *comm, struct Stream *stream) {
    if (fails("ncclAllReduce")) return refused(SYSTEM_ERROR, "the cable is out");
    if (type != 7 || op != 0) return BAD_ARGUMENT;
    return collective((struct Op){REDUCE, to, from, 4 * n, 0, comm, NULL}, stream, 4 * n);
}

int ncclReduceScatter(const void *from, void *to, size_t n, int type, int op, struct Comm *comm, struct Stream *stream) {
    if (fails("ncclReduceScatter")) return SYSTEM_ERROR;
    if (type != 7 || op != 0) return BAD_ARGUMENT;
    return collective((struct Op){SCATTER, to, from, 4 * n * comm->size, 0, comm, NULL}, stream, 4 * n);
}

int ncclAllGather(const void *from, void *to, size_t n, int type, struct Comm *comm, struct Stream *stream) {
    if (fails("ncclAllGather")) return SYSTEM_ERROR;
    if (type != 1) return BAD_ARGUMENT;
    return collective((struct Op){GATHER, to, from, n, 0, comm, NULL}, stream, n * comm->size);
}

int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, struct Comm *comm, struct Stream *stream) {
    if (fails("ncclBroadcast")) return SYSTEM_ERROR;
    if (type != 1) return BAD_ARGUMENT;
    return collective((struct Op){BROADCAST, to, from, n, root, comm, NULL}, stream, n);
}

static void hang_up(struct Comm *comm) {
    for (int k = 0; k < comm->size; k++)
        if (comm->to[k]) close(comm->to[k]);
    free(comm->to);
    free(comm);
}

int ncclCommDestroy(struct Comm *comm) {
    if (fails("ncclCommDestroy") || !comm) return SYSTEM_ERROR;
    hang_up(comm);
    return 0;
}

int ncclCommAbort(struct Comm *comm) {
    hang_up(comm);
    return 0;
}

int ncclCommGetAsyncError(struct Comm *comm, int *to) {
    *to = comm->error;
    return fails("ncclCommGetAsyncError") ? SYSTEM_ERROR : 0;
}

const char *ncclGetErrorString(int code) { return code == REMOTE_ERROR ? "remote process exited" : "stub error"; }

const char *ncclGetLastError(struct Comm *comm) { return comm ? "" : last; }
