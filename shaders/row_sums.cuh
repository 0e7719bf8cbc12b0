// Sums over a row, which is a thread block's, and the largest of it.

static __shared__ float sums[THREADS];

// The sum of what all threads bring, in an order that is always the same.
DEVICE float summed(float own) {
    sums[threadIdx.x] = own;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    const float sum = sums[0];
    // Nobody may write the next row's before everybody has read this one's.
    __syncthreads();
    return sum;
}

// The largest of what all threads bring.
DEVICE float largest(float own) {
    sums[threadIdx.x] = own;
    __syncthreads();
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] = fmaxf(sums[threadIdx.x], sums[threadIdx.x + half]);
        __syncthreads();
    }
    const float top = sums[0];
    __syncthreads();
    return top;
}
