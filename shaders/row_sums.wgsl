// Sums over a row, which is a workgroup's, and the largest of it.

var<workgroup> sums: array<f32, THREADS>;
var<workgroup> shared_rows: u32;

// The sum of what all invocations bring, in an order that is always the same.
fn summed(thread: u32, own: f32) -> f32 {
    sums[thread] = own;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
        if thread < half {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    let sum = sums[0];
    // Nobody may write the next row's before everybody has read this one's.
    workgroupBarrier();
    return sum;
}

// The largest of what all invocations bring.
fn largest(thread: u32, own: f32) -> f32 {
    sums[thread] = own;
    workgroupBarrier();
    for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
        if thread < half {
            sums[thread] = max(sums[thread], sums[thread + half]);
        }
        workgroupBarrier();
    }
    let top = sums[0];
    workgroupBarrier();
    return top;
}
