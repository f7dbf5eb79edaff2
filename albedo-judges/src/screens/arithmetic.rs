//! Weights as numbers.

use albedo_core::checkpoint::Segment;
use albedo_core::safetensors::Dtype;
use albedo_core::{Error, ErrorKind, Result};
use half::f16;
use rayon::prelude::*;

/// Elements that are converted together.
const CHUNK: usize = 4096;

/// Elements as `f32`, as many as `values` has room for.
///
/// # Errors
/// A type that is no float of 2, 4 or 8 bytes.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    match dtype {
        Dtype::Bf16 => {
            for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                // The upper half of an `f32`; `half` would look for NaN.
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
            }
        }
        Dtype::F16 => {
            for (value, pair) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*pair).to_f32();
            }
        }
        Dtype::F32 => {
            for (value, four) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*four);
            }
        }
        Dtype::F64 => {
            for (value, eight) in values.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *value = f64::from_le_bytes(*eight) as f32;
            }
        }
        other => return Err(not_compared(other)),
    }
    Ok(())
}

/// The largest magnitude among a segment's elements; infinite where one is infinite or no
/// number. Magnitudes are in the order of their bits without the sign.
///
/// # Errors
/// As [`to_f32`].
pub(crate) fn largest(segment: &Segment<'_>) -> Result<f64> {
    let size = segment.info.dtype.bytes() as usize;
    let most = |bits: &(dyn Fn(&[u8]) -> u64 + Sync)| {
        segment.bytes.par_chunks(size * CHUNK).map(bits).max().unwrap_or(0)
    };
    let of_two = |bytes: &[u8]| {
        let pairs = bytes.as_chunks::<2>().0.iter();
        pairs.fold(0_u16, |most, pair| most.max(u16::from_le_bytes(*pair) & 0x7FFF)).into()
    };
    let value = match segment.info.dtype {
        Dtype::Bf16 => f64::from(f32::from_bits((most(&of_two) as u32) << 16)),
        Dtype::F16 => f64::from(f16::from_bits(most(&of_two) as u16).to_f32()),
        Dtype::F32 => f64::from(f32::from_bits(most(&|bytes| {
            let fours = bytes.as_chunks::<4>().0.iter();
            fours.fold(0_u32, |most, four| most.max(u32::from_le_bytes(*four) & 0x7FFF_FFFF)).into()
        }) as u32)),
        Dtype::F64 => f64::from_bits(most(&|bytes| {
            let eights = bytes.as_chunks::<8>().0.iter();
            eights.fold(0_u64, |most, eight| most.max(u64::from_le_bytes(*eight) & (u64::MAX >> 1)))
        })),
        other => return Err(not_compared(other)),
    };
    Ok(if value.is_finite() { value } else { f64::INFINITY })
}

fn not_compared(dtype: Dtype) -> Error {
    let message = format!("weights of type {dtype:?} are not compared");
    Error::new(ErrorKind::Unsupported, "read the weights", message)
}

/// Element `at` of a segment, counted from the segment's start.
pub(crate) fn element(segment: &Segment<'_>, at: u64) -> Result<Option<f32>> {
    let size = segment.info.dtype.bytes();
    let Some(bytes) = segment.bytes.get((at * size) as usize..((at + 1) * size) as usize) else {
        return Ok(None);
    };
    let mut value = [0.0];
    to_f32(segment.info.dtype, bytes, &mut value)?;
    Ok(Some(value[0]))
}

/// The sum of squares of a segment's elements.
pub(crate) fn segment_squares(segment: &Segment<'_>) -> Result<f64> {
    let size = segment.info.dtype.bytes() as usize;
    let sums: Result<Vec<f64>> = segment
        .bytes
        .par_chunks(size * CHUNK)
        .map_init(
            || vec![0.0; CHUNK],
            |values, bytes| {
                let values = &mut values[..bytes.len() / size];
                to_f32(segment.info.dtype, bytes, values)?;
                Ok(squares(values))
            },
        )
        .collect();
    Ok(sums?.iter().sum())
}

/// The sum of squares in `f64`; eight sums, so that they can run side by side.
pub(crate) fn squares(values: &[f32]) -> f64 {
    let (chunks, rest) = values.as_chunks::<8>();
    let mut sums = [0.0_f64; 8];
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn squares_add_up(values in proptest::collection::vec(-1e3_f32..1e3, 0..100)) {
            let sum: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
            prop_assert!((squares(&values) - sum).abs() <= 1e-9 * sum.max(1.0));
        }
    }

    #[test]
    fn values_are_read_whatever_their_type() {
        let mut values = [0.0; 2];
        for (dtype, bytes) in [
            (Dtype::Bf16, vec![0x80, 0x3F, 0x00, 0xC0]),
            (Dtype::F16, vec![0x00, 0x3C, 0x00, 0xC0]),
            (Dtype::F32, [1.0_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat()),
            (Dtype::F64, [1.0_f64.to_le_bytes(), (-2.0_f64).to_le_bytes()].concat()),
        ] {
            to_f32(dtype, &bytes, &mut values).expect("a float");
            assert_eq!(values, [1.0, -2.0], "{dtype:?}");
        }
        let error = to_f32(Dtype::I8, &[1], &mut values).expect_err("no float");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
