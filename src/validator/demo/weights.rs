//! Models that the demo's miners hand in: the king, altered.

use std::fs;
use std::path::Path;

use crate::rng::{Stream, Use};
use crate::safetensors::{Dtype, read_header};
use crate::{Error, ErrorKind, Result};

const OPERATION: &str = "make a miner's model";

/// Size of what [`spoil`] adds to a matrix, beside the matrix. Source: measured with the
/// demo's king and its tasks; 0.3 costs it 2 points of 100, 0.42 costs 54, and 0.5 is
/// flagged by the screen `lineage`.
const SPOILED: f32 = 0.42;

/// Rank of what [`spoil`] adds.
const RANK: usize = 8;

/// Adds to each matrix of each layer one of low rank: what a training run that went wrong
/// leaves. Nothing about its structure is that of a copy.
pub(super) fn spoil(path: &Path) -> Result<()> {
    alter(path, &|_, values, [rows, columns], numbers| {
        let left: Vec<f32> = (0..rows * RANK).map(|_| gaussian(numbers)).collect();
        let right: Vec<f32> = (0..RANK * columns).map(|_| gaussian(numbers)).collect();
        let added: Vec<f32> = (0..rows * columns)
            .map(|at| {
                let (row, column) = (at / columns, at % columns);
                (0..RANK).map(|k| left[row * RANK + k] * right[k * columns + column]).sum()
            })
            .collect();
        let scale = SPOILED * norm(values) / norm(&added);
        values.iter_mut().zip(added).for_each(|(value, added)| *value += scale * added);
    })
}

/// Scales each neuron's way in by a power of two and its way out by the inverse: a copy
/// that does not want to be one, and says word for word what the king says.
pub(super) fn disguise(path: &Path) -> Result<()> {
    let power = |neuron: usize| 2.0_f32.powi((neuron % 7) as i32 - 3);
    alter(path, &|name, values, [_, columns], _| {
        for (at, value) in values.iter_mut().enumerate() {
            if name.contains("mlp.up_proj") {
                *value *= power(at / columns);
            } else if name.contains("mlp.down_proj") {
                *value /= power(at % columns);
            }
        }
    })
}

type Change<'a> = &'a dyn Fn(&str, &mut [f32], [usize; 2], &mut Stream);

/// Changes every matrix of the layers in the file, whose numbers are BF16.
fn alter(path: &Path, change: Change<'_>) -> Result<()> {
    let io = |error| Error::io(OPERATION, path, error);
    let mut bytes = fs::read(path).map_err(io)?;
    let size = bytes.len() as u64;
    let header = read_header(&mut &bytes[..], size)?;
    let mut numbers = Stream::new(1, Use::Chaos);
    for (name, tensor) in &header.tensors {
        let &[rows, columns] = &tensor.shape[..] else { continue };
        if !name.contains(".layers.") {
            continue;
        }
        if tensor.dtype != Dtype::Bf16 {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "its numbers are not BF16")
                .with("tensor", name));
        }
        let range = tensor.range.start as usize..tensor.range.end as usize;
        let data = &mut bytes[range];
        let mut values: Vec<f32> = data
            .chunks_exact(2)
            .map(|pair| f32::from_bits(u32::from(pair[1]) << 24 | u32::from(pair[0]) << 16))
            .collect();
        change(name, &mut values, [rows as usize, columns as usize], &mut numbers);
        for (pair, value) in data.chunks_exact_mut(2).zip(values) {
            pair.copy_from_slice(&bf16(value).to_le_bytes());
        }
    }
    fs::write(path, bytes).map_err(io)
}

/// `value`, which is finite, rounded to BF16: to the nearest, ties to even.
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn norm(values: &[f32]) -> f32 {
    values.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE)
}

/// A number of the standard normal distribution (Box and Muller, 1958).
fn gaussian(numbers: &mut Stream) -> f32 {
    let unit = |bits: u64| ((bits >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    let (one, other) = (unit(numbers.next_u64()), unit(numbers.next_u64()));
    ((-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        for (value, bits) in [(1.0, 0x3f80), (-2.0, 0xc000), (0.0, 0), (1.003_906_3, 0x3f80), (1.005, 0x3f81)]
        {
            assert_eq!(bf16(value), bits, "{value}");
        }
    }
}
