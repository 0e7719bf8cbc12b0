// Softmax and cross-entropy of each row of logits: its loss, whether its label alone is the most probable, and the gradient of
// weight * loss, (softmax - one hot) * weight. A workgroup takes whole rows, and goes through each twice: once for the largest
// logit and the sum of exponentials beside it (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018), once
// for the gradient.
//
// The gradient may be the logits: an invocation writes what it alone has read, and the label's logit is read before. A row whose
// label is negative is ignored: zeros, whatever its logits are. Columns behind the vocabulary are padding: no probability, and zeros.

@group(0) @binding(0) var<storage, read_write> logits: array<Packed>;
@group(0) @binding(1) var<storage, read_write> labels: array<i32>;
@group(0) @binding(2) var<storage, read_write> weights: array<f32>;
@group(0) @binding(3) var<storage, read_write> gradient: array<Packed>;
// Of each row its loss, 1 where that label is, and 1 where it counts.
@group(0) @binding(4) var<storage, read_write> report: array<f32>;
// Rows, vocabulary, elements from a row to the next, of the logits and of the gradient, and of a row.
@group(0) @binding(5) var<storage, read_write> info: array<u32>;

// Stands for -inf, with which some drivers do not compute.
const LOWEST: f32 = -3.4e38;

var<workgroup> at_label: f32;

// Largest logit, sum of exponentials beside it, how often it occurs.
struct Softmax {
    top: f32,
    sum: f32,
    tops: f32,
}

fn joined(all: Softmax, x: f32) -> Softmax {
    if x > all.top {
        return Softmax(x, all.sum * exp(all.top - x) + 1.0, 1.0);
    }
    // A NaN gets into the sum.
    return Softmax(all.top, all.sum + exp(x - all.top), all.tops + f32(x == all.top));
}

// What of a piece is in the vocabulary.
#if QUADS
fn in_vocabulary(i: u32, vocabulary: u32) -> vec4<bool> {
    return vec4<u32>(0u, 1u, 2u, 3u) + 4u * i < vec4<u32>(vocabulary);
}
#else
fn in_vocabulary(i: u32, vocabulary: u32) -> bool {
    return i < vocabulary;
}
#endif

@compute @workgroup_size(THREADS, 1, 1)
fn softmax_cross_entropy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    if thread == 0u {
        shared_rows = info[0];
    }
    // The loop below holds barriers: its bounds have to be provably the same for the whole workgroup.
    let rows = workgroupUniformLoad(&shared_rows);
    let vocabulary = info[1];
    let pieces = info[4] / LANES;
    let stride = info[2] / LANES;
    let gradient_stride = info[3] / LANES;
    for (var row = group.x; row < rows; row += groups.x) {
        let counts = labels[row] >= 0;
        let label = u32(max(labels[row], 0));
        var own = Softmax(LOWEST, 0.0, 0.0);
        for (var i = thread; i < pieces; i += THREADS) {
            let x = select(Piece(LOWEST), Piece(logits[row * stride + i]), in_vocabulary(i, vocabulary));
#if QUADS
            own = joined(joined(joined(joined(own, x.x), x.y), x.z), x.w);
            if label / LANES == i {
                at_label = x[label % LANES];
            }
#else
            own = joined(own, x);
            if label == i {
                at_label = x;
            }
#endif
        }
        let top = largest(thread, own.top);
        let sum = summed(thread, own.sum * exp(own.top - top));
        let tops = summed(thread, select(0.0, own.tops, own.top == top));
        let lse = log(sum) + top;
        let weight = weights[row];
        if thread == 0u {
            let loss = lse - at_label;
            report[3u * row] = select(0.0, loss, counts);
            // A loss is never less than -1, and NaN is not more: nothing is right about such a row.
            report[3u * row + 1u] = f32(counts && at_label == top && tops == 1.0 && loss > -1.0);
            report[3u * row + 2u] = f32(counts);
        }
        for (var i = thread; i < pieces; i += THREADS) {
            let x = Piece(logits[row * stride + i]);
            var d = exp(x - lse) * weight;
#if QUADS
            if label / LANES == i {
                d[label % LANES] -= weight;
            }
#else
            if label == i {
                d -= weight;
            }
#endif
            gradient[row * gradient_stride + i] = Packed(select(Piece(0.0), d, in_vocabulary(i, select(0u, vocabulary, counts))));
        }
        // Nobody may write the next row's before it has been read.
        workgroupBarrier();
    }
}
