use super::*;
use crate::few::MOST;
use safetensors::SafeTensors;

const GOLDEN: &[u8] = include_bytes!("../../testdata/ggml.safetensors");

fn floats(bytes: &[u8]) -> Vec<f32> {
    let each = bytes.as_chunks().0.iter();
    each.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Equal to the bit, but for which NaN a NaN is.
fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
        assert!(same, "{what}, value {i}: {got:e} for {want:e}");
    }
}

#[test]
fn blocks_stand_for_what_they_do_in_python() {
    let golden = SafeTensors::deserialize(GOLDEN).unwrap();
    for format in Format::ALL {
        let tensor = |what: &str| golden.tensor(&format!("{}.{what}", format.name())).unwrap();
        let (blocks, want) = (tensor("blocks"), floats(tensor("values").data()));
        assert_eq!(blocks.shape()[1], format.bytes());
        assert_eq!(want.len(), blocks.shape()[0] * format.block());
        let got = dequantize(format, blocks.data(), want.len());
        assert_same(&got, &want, format.name());
    }
}

#[test]
fn q8_0_is_encoded_as_in_python() {
    let golden = SafeTensors::deserialize(GOLDEN).unwrap();
    let source = floats(golden.tensor("Q8_0.source").unwrap().data());
    let want = golden.tensor("Q8_0.encoded").unwrap();
    assert!(encode_q8_0(&source) == want.data());
}

#[test]
fn threads_do_not_change_what_blocks_stand_for() {
    for format in Format::ALL {
        // More than two tasks, the last of them short.
        let n = 3 * crate::GRAIN - format.block();
        let bytes: Vec<u8> = (0..n / format.block() * format.bytes())
            .map(|i| (i * i / 7 % 251) as u8)
            .collect();
        let mut alone = vec![0.0; n];
        decode(format, &bytes, &mut alone);
        assert_same(&dequantize(format, &bytes, n), &alone, format.name());
    }
}

#[test]
fn values_that_are_no_whole_blocks_are_refused() {
    let refused = std::panic::catch_unwind(|| dequantize(Format::Q4K, &[0; 288], 260));
    assert!(refused.is_err());
}

/// Blocks with scales as models have them, from 0.001 to 0.01.
fn blocks(format: Format, count: usize, seed: u32) -> Vec<u8> {
    let size = format.bytes();
    let random = crate::testing::values(count * size, seed);
    let mut bytes: Vec<u8> = random.iter().map(|v| (v * 1e6) as i32 as u8).collect();
    for (i, block) in bytes.chunks_mut(size).enumerate() {
        for at in format.scales() {
            let scale = to_f16(0.001 + 0.009 * (i % 10) as f32 / 9.0);
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn products_are_those_of_the_decoded_values() {
    for format in Format::ALL {
        for (outputs, blocks_a_row) in [(1, 1), (7, 5), (150, 3)] {
            let inputs = blocks_a_row * format.block();
            let weight = blocks(format, outputs * blocks_a_row, 3);
            let dense = dequantize(format, &weight, outputs * inputs);
            for n in 0..=MOST {
                let x = crate::testing::values(n * inputs, 5);
                let got = multiply(format, &weight, [outputs, inputs], &x);
                // What is taken off Q4_K's values may be as large as they.
                crate::testing::assert_products(&got, &dense, &x, inputs);
            }
        }
    }
}

#[test]
fn zero_and_nan_blocks_show_in_their_rows_only() {
    for format in Format::ALL {
        let (row, inputs) = (2 * format.bytes(), 2 * format.block());
        let mut weight = blocks(format, 6, 9);
        weight[..row].fill(0);
        let scale = if format == Format::Q6K { 208 } else { 0 };
        weight[2 * row + scale..][..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
        for n in [1, 3] {
            let x = crate::testing::values(n * inputs, 5);
            for y in multiply(format, &weight, [3, inputs], &x).chunks(3) {
                assert!(y[0] == 0.0 && y[1].is_finite() && y[2].is_nan(), "{y:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_products() {
    let (outputs, inputs) = (700, 512);
    for format in Format::ALL {
        let weight = blocks(format, outputs * inputs / format.block(), 3);
        let row = weight.len() / outputs;
        let x = crate::testing::values(inputs, 5);
        let together = multiply(format, &weight, [outputs, inputs], &x);
        let alone = weight.chunks(row);
        let alone: Vec<f32> = alone
            .flat_map(|row| multiply(format, row, [1, inputs], &x))
            .collect();
        assert_eq!(together, alone);
    }
}

#[test]
fn q8_0_is_the_same_taken_apart() {
    let bytes = blocks(Format::Q8_0, 9, 4);
    let (codes, scales) = q8_0_apart(&bytes);
    let apart = crate::q8_0::dequantize(&codes, &scales, 9 * 32);
    assert_same(&apart, &dequantize(Format::Q8_0, &bytes, 9 * 32), "Q8_0");
}
