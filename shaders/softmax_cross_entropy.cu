// Softmax and cross-entropy of each row of logits: its loss, whether its label alone is the most probable, and the gradient of
// weight * loss, (softmax - one hot) * weight. A thread block takes whole rows, and goes through each twice: once for the largest
// logit and the sum of exponentials beside it (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), once
// for the gradient.
//
// The gradient may be the logits: a thread writes what it alone has read, and the label's logit is read before. A row whose label
// is negative is ignored: zeros, whatever its logits are. Columns behind the vocabulary are padding: no probability, and zeros.

// Stands for -inf, with which differences would be NaN.
#define LOWEST -3.4e38f

static __shared__ float at_label;

// Largest logit, sum of exponentials beside it, how often it occurs.
struct Softmax {
    float top, sum, tops;
};

DEVICE void add(Softmax &all, float x) {
    if (x > all.top) {
        all.sum = all.sum * expf(all.top - x) + 1;
        all.top = x;
        all.tops = 1;
    } else {
        // A NaN gets into the sum.
        all.sum += expf(x - all.top);
        all.tops += x == all.top;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
softmax_cross_entropy(const Element *logits, const int *__restrict__ labels, const float *__restrict__ weights,
                      Element *gradient,
                      // Of each row its loss, 1 where that label is, and 1 where it counts.
                      float *__restrict__ report,
                      // Rows, vocabulary, elements from a row to the next, of the logits and of the gradient, and of a row.
                      INFO) {
    const unsigned rows = TOLD(0), vocabulary = TOLD(1), pieces = TOLD(4) / LANES;
    for (unsigned row = blockIdx.x; row < rows; row += gridDim.x) {
        const Element *const from = logits + (unsigned long long)row * TOLD(2);
        Element *const to = gradient + (unsigned long long)row * TOLD(3);
        const bool counts = labels[row] >= 0;
        const unsigned label = counts ? labels[row] : 0;
        Softmax own = {LOWEST, 0, 0};
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            const Piece x = load(from, i);
            for (int lane = 0; lane < LANES; ++lane) {
                add(own, i * LANES + lane < vocabulary ? x.at[lane] : LOWEST);
                if (label == i * LANES + lane) at_label = x.at[lane];
            }
        }
        const float top = largest(own.top);
        const float sum = summed(own.sum * expf(own.top - top));
        const float tops = summed(own.top == top ? own.tops : 0);
        const float lse = logf(sum) + top, weight = weights[row];
        if (threadIdx.x == 0) {
            const float loss = lse - at_label;
            report[3ull * row] = counts ? loss : 0;
            // A loss is never less than -1, and NaN is not more: nothing is right about such a row.
            report[3ull * row + 1] = counts && at_label == top && tops == 1 && loss > -1;
            report[3ull * row + 2] = counts;
        }
        for (unsigned i = threadIdx.x; i < pieces; i += THREADS) {
            Piece x = load(from, i);
            for (int lane = 0; lane < LANES; ++lane) {
                const float own_weight = label == i * LANES + lane ? weight : 0;
                const bool has_one = counts && i * LANES + lane < vocabulary;
                x.at[lane] = has_one ? expf(x.at[lane] - lse) * weight - own_weight : 0;
            }
            store(to, i, x);
        }
        // Nobody may write the next row's before it has been read.
        __syncthreads();
    }
}
