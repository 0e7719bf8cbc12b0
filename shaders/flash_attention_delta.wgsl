// What the backward pass needs of each query: its log-sum-exp, and the sum of d_out * out, which is
// the mean of the weights' gradients weighted by the weights.

@group(0) @binding(0) var<storage, read_write> out: array<Quad>;
@group(0) @binding(1) var<storage, read_write> d_out: array<Quad>;
@group(0) @binding(2) var<storage, read_write> lse: array<f32>;
#if RANGES
@group(0) @binding(3) var<storage, read_write> range_first: array<i32>;
@group(0) @binding(4) var<storage, read_write> range_end: array<i32>;
// For what it holds see the backward pass.
@group(0) @binding(5) var<storage, read_write> stats: array<u32>;
@group(0) @binding(6) var<storage, read_write> info: array<u32>;
#else
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;
@group(0) @binding(4) var<storage, read_write> info: array<u32>;
#endif

@compute @workgroup_size(THREADS, 1, 1)
fn flash_attention_delta(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    read_problem(thread);
    let p = workgroupUniformLoad(&problem);
    let rows = p.batch * p.heads * p.seq_q;
    for (var row = workgroup.x * THREADS + thread; row < rows; row += workgroups.x * THREADS) {
        let head = row / p.seq_q;
        let query = row % p.seq_q;
        let out_rows = rows_of(OUT, head, p.heads, p.seq_q);
        let d_out_rows = rows_of(D_OUT, head, p.heads, p.seq_q);
        let at = out_rows.start + query * out_rows.stride;
        let d_at = d_out_rows.start + query * d_out_rows.stride;
        var sum = 0.0;
        for (var c = 0u; c < HEAD_QUADS; c++) {
            sum += dot(vec4<f32>(out[at + c]), vec4<f32>(d_out[d_at + c]));
        }
#if RANGES
        stats[row] = bitcast<u32>(lse[row]);
        stats[rows + row] = bitcast<u32>(sum);
        // Once for all heads.
        if head % p.heads == 0u {
            let place = head / p.heads * p.seq_q + query;
            let keys = within(p, query, range_first[place], range_end[place]);
            stats[2u * rows + place] = keys.first;
            stats[2u * rows + p.batch * p.seq_q + place] = keys.end;
        }
#else
        stats[row] = lse[row];
        stats[rows + row] = sum;
#endif
    }
}
