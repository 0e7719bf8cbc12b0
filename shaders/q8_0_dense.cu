// A matrix of Q8_0 in f32. The format is in crates/kernels/src/q8_0.rs.
//
// A thread takes words of four numbers, all of one block.

#define THREADS 256

extern "C" __global__ void __launch_bounds__(THREADS)
q8_0_dense(const unsigned *__restrict__ codes, const float *__restrict__ scales, float *__restrict__ dense,
           // How many numbers there are.
           const unsigned *__restrict__ info) {
    const unsigned n = info[0];
    const unsigned words = n / 4 + (n % 4 > 0);
    for (unsigned word = blockIdx.x * THREADS + threadIdx.x; word < words; word += gridDim.x * THREADS) {
        const float scale = scales[word / 8];
        const unsigned packed = codes[word];
        for (unsigned lane = 0; lane < 4; ++lane) {
            const unsigned i = word * 4 + lane;
            if (i < n) dense[i] = (float)(signed char)((packed >> (8 * lane)) & 255u) * scale;
        }
    }
}
