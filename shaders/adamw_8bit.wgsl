// One AdamW step with both moments in 8 bits. The algorithm, its format and its reasons are in
// crates/kernels/src/adamw_8bit.rs; this differs from it by rounding only.
//
// A workgroup takes whole blocks of 256 values, four to an invocation: so each word of four codes
// has one writer and needs no atomics. It goes on to further blocks because copying the tables
// costs as much memory traffic as a block does.

// Read-write even where only read: parts of one buffer may be bound more than once, and a buffer
// has to be bound for one use only.
@group(0) @binding(0) var<storage, read_write> parameter: array<f32>;
@group(0) @binding(1) var<storage, read_write> gradient: array<f32>;
@group(0) @binding(2) var<storage, read_write> m_codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> m_absmax: array<f32>;
@group(0) @binding(4) var<storage, read_write> v_codes: array<u32>;
@group(0) @binding(5) var<storage, read_write> v_absmax: array<f32>;
// Values of the signed and the unsigned map, first cells of both, then the step's numbers.
@group(0) @binding(6) var<storage, read_write> info: array<u32>;

const THREADS: u32 = 64u;
const UNSIGNED: u32 = 256u;
const SCALARS: u32 = 1024u;
// A smaller absmax might have an infinite reciprocal, or be flushed to zero.
const SMALLEST: f32 = 1.17549435e-38;
// Code of 0 in the signed map.
const ZERO: u32 = 127u;
// No bound on what a code may stand for.
const ANY: f32 = 3.40282347e+38;

var<workgroup> values: array<f32, 512>;
var<workgroup> first_cells: array<u32, 512>;
var<workgroup> largest: array<vec2<f32>, THREADS>;
var<workgroup> shared_count: u32;

fn scalar(i: u32) -> f32 {
    return bitcast<f32>(info[SCALARS + i]);
}

fn decode(word: u32, map: u32, absmax: f32) -> vec4<f32> {
    let codes = (vec4<u32>(word) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u);
    return absmax * vec4<f32>(
        values[map + codes.x],
        values[map + codes.y],
        values[map + codes.z],
        values[map + codes.w],
    );
}

fn encode(value: f32, map: u32) -> u32 {
    let cell = u32(clamp((value + 1.0) * 32767.5 + 0.5, 0.0, 65535.0));
    var code = 0u;
    for (var half = 128u; half > 0u; half >>= 1u) {
        if first_cells[map + code + half] <= cell {
            code += half;
        }
    }
    return code;
}

// Of the signed map: zero is zero, and no value is above its bound.
fn encode_mean(value: f32, most: f32, absmax: f32) -> u32 {
    if value == 0.0 {
        return ZERO;
    }
    var code = encode(value, 0u);
    while code != ZERO && abs(values[code]) * absmax > most {
        code = select(code + 1u, code - 1u, code > ZERO);
    }
    return code;
}

fn encode_means(x: vec4<f32>, most: vec4<f32>, absmax: f32) -> u32 {
    return encode_mean(x.x, most.x, absmax) | (encode_mean(x.y, most.y, absmax) << 8u)
        | (encode_mean(x.z, most.z, absmax) << 16u) | (encode_mean(x.w, most.w, absmax) << 24u);
}

fn encode_squares(x: vec4<f32>) -> u32 {
    return encode(x.x, UNSIGNED) | (encode(x.y, UNSIGNED) << 8u) | (encode(x.z, UNSIGNED) << 16u)
        | (encode(x.w, UNSIGNED) << 24u);
}

fn reciprocal(absmax: f32) -> f32 {
    return select(0.0, 1.0 / absmax, absmax >= SMALLEST);
}

fn max4(x: vec4<f32>) -> f32 {
    return max(max(x.x, x.y), max(x.z, x.w));
}

@compute @workgroup_size(THREADS, 1, 1)
fn adamw_8bit(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    for (var i = thread; i < 512u; i += THREADS) {
        values[i] = bitcast<f32>(info[i]);
        first_cells[i] = info[512u + i];
    }
    if thread == 0u {
        shared_count = info[SCALARS];
    }
    // Also the barrier that the tables need. The loop below holds barriers: its bounds have to be
    // provably the same for the whole workgroup.
    let n = workgroupUniformLoad(&shared_count);
    let gradient_scale = scalar(1u);
    let beta1 = scalar(2u);
    let beta2 = scalar(3u);
    let keep = scalar(4u);
    let rate = scalar(5u);
    let root = scalar(6u);
    let eps = scalar(7u);

    let blocks = (n + 255u) / 256u;
    for (var block = group.x; block < blocks; block += groups.x) {
        let word = block * THREADS + thread;
        var m = decode(m_codes[word], 0u, m_absmax[block]);
        var v = decode(v_codes[word], UNSIGNED, v_absmax[block]);
        var most = vec4<f32>(ANY);
        for (var lane = 0u; lane < 4u; lane++) {
            let i = word * 4u + lane;
            if i < n {
                let g = gradient[i] * gradient_scale;
                let before = m[lane];
                let decayed = before * beta1;
                m[lane] = decayed + g * (1.0 - beta1);
                // Where the gradient leaves no trace, rounding takes back half of the decay at the most.
                if m[lane] == decayed {
                    most[lane] = 0.5 * (abs(before) + abs(decayed));
                }
                v[lane] = v[lane] * beta2 + g * (1.0 - beta2) * g;
                parameter[i] = parameter[i] * keep - rate * m[lane] / (sqrt(v[lane]) * root + eps);
            } else {
                // Padding must not count for the absmax.
                m[lane] = 0.0;
                v[lane] = 0.0;
            }
        }

        largest[thread] = vec2<f32>(max4(abs(m)), max4(v));
        workgroupBarrier();
        for (var half = THREADS / 2u; half > 0u; half >>= 1u) {
            if thread < half {
                largest[thread] = max(largest[thread], largest[thread + half]);
            }
            workgroupBarrier();
        }
        let absmax = largest[0];
        // Nobody may write the next block's before everybody has read this one's.
        workgroupBarrier();

        let inverse = vec2<f32>(reciprocal(absmax.x), reciprocal(absmax.y));
        let kept = select(vec2<f32>(0.0), absmax, absmax >= vec2<f32>(SMALLEST));
        m_codes[word] = encode_means(m * inverse.x, most, kept.x);
        v_codes[word] = encode_squares(v * inverse.y);
        if thread == 0u {
            m_absmax[block] = kept.x;
            v_absmax[block] = kept.y;
        }
    }
}
