// Runs one launch of a kernel, read from a file:
//
//   emulator ENTRY GRID THREADS SHARED_BYTES DESCENDING INPUT OUTPUT
//
// INPUT has words of 64 bits: the number of buffers, for each its bytes, whether it may be written,
// and its contents; then the number of arguments and the buffer of each. OUTPUT gets the buffers
// that may be written. With DESCENDING 1 later threads run before earlier ones.

#include "cuda.h"

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <string>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

// Weak: only those that an emulator is built with are there.
#pragma weak flash_attention_forward
#pragma weak flash_attention_delta
#pragma weak flash_attention_backward_queries
#pragma weak flash_attention_backward_keys
#pragma weak adamw_8bit
#pragma weak nf4_dense
#pragma weak q8_0_dense
#pragma weak ggml_dense
#pragma weak add_rms_norm
#pragma weak add_rms_norm_backward
#pragma weak add_rms_norm_backward_of_two
#pragma weak scaled_norm
#pragma weak scaled_norm_backward
#pragma weak scaled_norm_sums
#pragma weak swiglu
#pragma weak swiglu_backward
#pragma weak rope
#pragma weak embedding_gradient
#pragma weak softmax_cross_entropy
#pragma weak square_sums
#pragma weak square_sums_of_four
#pragma weak adamw
#pragma weak bf16_dense
#pragma weak f16_dense
#pragma weak padded
#pragma weak adamw_of_four
extern "C" {
void flash_attention_forward(const void *, const void *, const void *, void *, float *,
                             const unsigned *);
void flash_attention_delta(const void *, const void *, const float *, float *, const unsigned *);
void flash_attention_backward_queries(const void *, const void *, const void *, const void *,
                                      const float *, void *, const unsigned *);
void flash_attention_backward_keys(const void *, const void *, const void *, const void *,
                                   const float *, void *, void *, const unsigned *);
void adamw_8bit(float *, const float *, unsigned *, float *, unsigned *, float *, const unsigned *);
void nf4_dense(const unsigned *, const unsigned *, const float *, void *, const unsigned *);
void q8_0_dense(const unsigned *, const float *, void *, const unsigned *);
void ggml_dense(const unsigned *, void *, const unsigned *);
void add_rms_norm(const void *, const void *, void *, float *, const unsigned *);
void add_rms_norm_backward(const void *, const void *, const float *, void *, const unsigned *);
void add_rms_norm_backward_of_two(const void *, const void *, const float *, const void *, void *, const unsigned *);
void scaled_norm(const void *, const float *, const float *, void *, const unsigned *);
void scaled_norm_backward(const void *, const void *, const float *, void *, float *, const unsigned *);
void scaled_norm_sums(const void *, const void *, const float *, float *, const unsigned *);
void swiglu(const void *, void *, const unsigned *);
void swiglu_backward(const void *, const void *, void *, void *, const unsigned *);
void rope(const void *, const float *, const float *, void *, const unsigned *);
void embedding_gradient(const float *, const unsigned *, void *, const unsigned *);
void square_sums(const void *, float *, const unsigned *);
void square_sums_of_four(const void *, const void *, const void *, const void *, float *, const unsigned *);
void bf16_dense(const unsigned *, void *, const unsigned *);
void f16_dense(const unsigned *, void *, const unsigned *);
void padded(const float *, void *, const unsigned *);
void adamw(const void *, void *, void *, void *, const unsigned *);
void adamw_of_four(const void *, void *, void *, void *, const void *, void *, void *, void *,
                   const void *, void *, void *, void *, const void *, void *, void *, void *, const unsigned *);
void softmax_cross_entropy(const void *, const int *, const float *, void *, float *, const unsigned *);
}

// The kernels of attention that are told which keys each query sees go by the same names.
typedef void ForwardWithRanges(const void *, const void *, const void *, const int *, const int *,
                               void *, float *, const unsigned *);
typedef void DeltaWithRanges(const void *, const void *, const float *, const int *, const int *,
                             float *, const unsigned *);

Place threadIdx, blockIdx, gridDim;
// More than any kernel asks for: what it does not own must stay as it is.
const size_t SHARED_ROOM = 256 << 10;
uint4 shared_memory[SHARED_ROOM / sizeof(uint4)];

// All ones is a NaN in every format.
const int POISON = 0xff;
const size_t STACK = 256 << 10;

enum State { READY, AT_WARP, AT_BLOCK, DONE };

struct Copy {
    void *to;
    const void *from;
    int size, bytes;
};

struct Thread {
    ucontext_t context;
    std::vector<char> stack;
    State state;
    Together operation;
    unsigned meetings;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> committed;
};

static std::vector<Thread> threads;
static ucontext_t scheduler;
static std::function<void()> kernel;
static bool descending;
// Of two meetings in turn: nobody brings something to the next but one before all have left this one.
static std::vector<Offer> offers[2];

void broken(const char *what) {
    fprintf(stderr, "block %u, thread %u: %s\n", blockIdx.x, threadIdx.x, what);
    _exit(1);
}

static void pause_as(State state) {
    Thread &thread = threads[threadIdx.x];
    thread.state = state;
    swapcontext(&thread.context, &scheduler);
}

const Offer *meet(Together operation, const Offer &offer) {
    Thread &thread = threads[threadIdx.x];
    std::vector<Offer> &turn = offers[thread.meetings++ % 2];
    thread.operation = operation;
    turn[threadIdx.x] = offer;
    pause_as(AT_WARP);
    return &turn[threadIdx.x / 32 * 32];
}

void __syncthreads() { pause_as(AT_BLOCK); }

// Until it has landed, nobody can count on what was there or on what comes.
void copy_later(void *to, const void *from, int size, int bytes) {
    if ((uintptr_t)to % size != 0 || (uintptr_t)from % size != 0) broken("cp.async is not aligned");
    if (bytes != 0 && bytes != size) broken("cp.async of a part");
    memset(to, POISON, size);
    threads[threadIdx.x].open.push_back({to, from, size, bytes});
}

void commit_copies() {
    Thread &thread = threads[threadIdx.x];
    thread.committed.push_back(std::move(thread.open));
    thread.open.clear();
}

void await_copies(unsigned newest_left) {
    auto &committed = threads[threadIdx.x].committed;
    for (; committed.size() > newest_left; committed.pop_front())
        for (const Copy &copy : committed.front()) {
            memset(copy.to, 0, copy.size);
            if (copy.bytes > 0) memcpy(copy.to, copy.from, copy.bytes);
        }
}

static void run_thread() {
    kernel();
    const Thread &thread = threads[threadIdx.x];
    if (!thread.open.empty() || !thread.committed.empty()) broken("ends with a copy under way");
    pause_as(DONE);
}

static void begin(Thread &thread) {
    getcontext(&thread.context);
    thread.stack.resize(STACK);
    thread.context.uc_stack.ss_sp = thread.stack.data();
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, run_thread, 0);
    thread.state = READY;
    thread.meetings = 0;
}

static unsigned nth(unsigned i, unsigned count) { return descending ? count - 1 - i : i; }

static void resume(unsigned index) {
    threadIdx.x = index;
    swapcontext(&scheduler, &threads[index].context);
}

// Up to the next barrier of the block, or to the end.
static void run_warp(unsigned warp) {
    Thread *const lanes = &threads[32 * warp];
    do {
        for (unsigned i = 0; i < 32; ++i) resume(32 * warp + nth(i, 32));
        for (unsigned i = 1; i < 32; ++i)
            if (lanes[i].state != lanes[0].state || lanes[i].operation != lanes[0].operation)
                broken("the lanes of a warp do not meet");
    } while (lanes[0].state == AT_WARP);
}

static void run_block(size_t shared_bytes) {
    memset(shared_memory, POISON, SHARED_ROOM);
    for (Thread &thread : threads) begin(thread);
    const unsigned warps = threads.size() / 32;
    do {
        for (unsigned i = 0; i < warps; ++i) run_warp(nth(i, warps));
        for (const Thread &thread : threads)
            if (thread.state != threads[0].state) broken("not all threads come to a barrier");
    } while (threads[0].state == AT_BLOCK);
    for (size_t i = shared_bytes; i < SHARED_ROOM; ++i)
        if (((unsigned char *)shared_memory)[i] != POISON) broken("writes past its shared memory");
}

static uint64_t word(FILE *file) {
    uint64_t word;
    if (fread(&word, 8, 1, file) != 1) broken("the input ends early");
    return word;
}

struct Buffer {
    char *data;
    size_t bytes;
    bool writable;
};

// Its end is the end of the pages that may be touched.
static Buffer buffer(FILE *file) {
    Buffer b;
    b.bytes = word(file);
    b.writable = word(file);
    const size_t page = sysconf(_SC_PAGESIZE), room = (b.bytes + page - 1) / page * page;
    char *const pages = (char *)mmap(nullptr, room + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) broken("no memory");
    mprotect(pages + page, room, PROT_READ | PROT_WRITE);
    memset(pages + page, POISON, room);
    b.data = pages + page + room - b.bytes;
    if (fread(b.data, 1, b.bytes, file) != b.bytes) broken("the input ends early");
    if (!b.writable) mprotect(pages + page, room, PROT_READ);
    return b;
}

static std::function<void()> launch(const std::string &entry, const std::vector<char *> &a) {
    const auto info = [](char *data) { return (const unsigned *)data; };
    const auto floats = [](char *data) { return (float *)data; };
    const auto ints = [](char *data) { return (const int *)data; };
    if (entry == "flash_attention_forward" && a.size() == 6)
        return [=] { flash_attention_forward(a[0], a[1], a[2], a[3], floats(a[4]), info(a[5])); };
    if (entry == "flash_attention_forward" && a.size() == 8)
        return [=] {
            ((ForwardWithRanges *)flash_attention_forward)(a[0], a[1], a[2], ints(a[3]), ints(a[4]),
                                                           a[5], floats(a[6]), info(a[7]));
        };
    if (entry == "flash_attention_delta" && a.size() == 7)
        return [=] {
            ((DeltaWithRanges *)flash_attention_delta)(a[0], a[1], floats(a[2]), ints(a[3]),
                                                       ints(a[4]), floats(a[5]), info(a[6]));
        };
    if (entry == "flash_attention_delta" && a.size() == 5)
        return [=] { flash_attention_delta(a[0], a[1], floats(a[2]), floats(a[3]), info(a[4])); };
    if (entry == "flash_attention_backward_queries" && a.size() == 7)
        return [=] {
            flash_attention_backward_queries(a[0], a[1], a[2], a[3], floats(a[4]), a[5], info(a[6]));
        };
    if (entry == "flash_attention_backward_keys" && a.size() == 8)
        return [=] {
            flash_attention_backward_keys(a[0], a[1], a[2], a[3], floats(a[4]), a[5], a[6], info(a[7]));
        };
    // Written are all but the gradient, which so comes first here.
    if (entry == "adamw_8bit" && a.size() == 7)
        return [=] {
            adamw_8bit(floats(a[1]), floats(a[0]), (unsigned *)a[2], floats(a[3]), (unsigned *)a[4],
                       floats(a[5]), info(a[6]));
        };
    if (entry == "nf4_dense" && a.size() == 5)
        return [=] { nf4_dense(info(a[0]), info(a[1]), floats(a[2]), a[3], info(a[4])); };
    if (entry == "q8_0_dense" && a.size() == 4)
        return [=] { q8_0_dense(info(a[0]), floats(a[1]), a[2], info(a[3])); };
    if (entry == "ggml_dense" && a.size() == 3)
        return [=] { ggml_dense(info(a[0]), a[1], info(a[2])); };
    if (entry == "add_rms_norm" && a.size() == 5)
        return [=] { add_rms_norm(a[0], a[1], a[2], floats(a[3]), info(a[4])); };
    if (entry == "add_rms_norm_backward" && a.size() == 5)
        return [=] { add_rms_norm_backward(a[0], a[1], floats(a[2]), a[3], info(a[4])); };
    if (entry == "add_rms_norm_backward_of_two" && a.size() == 6)
        return [=] { add_rms_norm_backward_of_two(a[0], a[1], floats(a[2]), a[3], a[4], info(a[5])); };
    if (entry == "scaled_norm" && a.size() == 5)
        return [=] { scaled_norm(a[0], floats(a[1]), floats(a[2]), a[3], info(a[4])); };
    if (entry == "scaled_norm_backward" && a.size() == 6)
        return [=] { scaled_norm_backward(a[0], a[1], floats(a[2]), a[3], floats(a[4]), info(a[5])); };
    if (entry == "scaled_norm_sums" && a.size() == 5)
        return [=] { scaled_norm_sums(a[0], a[1], floats(a[2]), floats(a[3]), info(a[4])); };
    if (entry == "swiglu" && a.size() == 3) return [=] { swiglu(a[0], a[1], info(a[2])); };
    if (entry == "swiglu_backward" && a.size() == 5)
        return [=] { swiglu_backward(a[0], a[1], a[2], a[3], info(a[4])); };
    if (entry == "rope" && a.size() == 5)
        return [=] { rope(a[0], floats(a[1]), floats(a[2]), a[3], info(a[4])); };
    if (entry == "embedding_gradient" && a.size() == 4)
        return [=] { embedding_gradient(floats(a[0]), info(a[1]), a[2], info(a[3])); };
    if (entry == "square_sums" && a.size() == 3)
        return [=] { square_sums(a[0], floats(a[1]), info(a[2])); };
    if (entry == "square_sums_of_four" && a.size() == 6)
        return [=] { square_sums_of_four(a[0], a[1], a[2], a[3], floats(a[4]), info(a[5])); };
    if (entry == "bf16_dense" && a.size() == 3) return [=] { bf16_dense(info(a[0]), a[1], info(a[2])); };
    if (entry == "f16_dense" && a.size() == 3) return [=] { f16_dense(info(a[0]), a[1], info(a[2])); };
    if (entry == "padded" && a.size() == 3) return [=] { padded(floats(a[0]), a[1], info(a[2])); };
    if (entry == "adamw" && a.size() == 5) return [=] { adamw(a[0], a[1], a[2], a[3], info(a[4])); };
    if (entry == "adamw_of_four" && a.size() == 17)
        return [=] {
            adamw_of_four(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12],
                          a[13], a[14], a[15], info(a[16]));
        };
    if (entry == "softmax_cross_entropy" && a.size() == 6)
        return [=] {
            softmax_cross_entropy(a[0], ints(a[1]), floats(a[2]), a[3], floats(a[4]), info(a[5]));
        };
    broken("no such entry point with so many arguments");
}

int main(int, char **words) {
    FILE *const input = fopen(words[6], "rb"), *const output = fopen(words[7], "wb");
    if (!input || !output) broken("cannot open a file");
    std::vector<Buffer> buffers;
    for (uint64_t n = word(input); n > 0; --n) buffers.push_back(buffer(input));
    std::vector<char *> arguments;
    for (uint64_t n = word(input); n > 0; --n) arguments.push_back(buffers[word(input)].data);

    kernel = launch(words[1], arguments);
    gridDim.x = atoi(words[2]);
    threads.resize(atoi(words[3]));
    descending = atoi(words[5]);
    for (auto &turn : offers) turn.resize(threads.size());
    for (unsigned i = 0; i < gridDim.x; ++i) {
        blockIdx.x = nth(i, gridDim.x);
        run_block(atoi(words[4]));
    }
    for (const Buffer &b : buffers)
        if (b.writable && fwrite(b.data, 1, b.bytes, output) != b.bytes) broken("cannot write");
    return fclose(output);
}
