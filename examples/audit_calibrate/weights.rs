//! Models with altered weights.

use std::io;
use std::path::{Path, PathBuf};

use albedo::rng::{Stream, Use};
use serde_json::{Map, Value, json};

/// What is done to every matrix.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// Each row is rounded to 8 bits of its largest value.
    Int8,
    /// Each weight is multiplied by 1 + this times a normal number.
    Error(f64),
}

/// Writes the model in `from` with altered weights, in f32, to the folder `to`.
pub(crate) fn alter(from: &Path, to: &Path, how: How) -> io::Result<PathBuf> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    let bytes = std::fs::read(from.join("model.safetensors"))?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the model is not one file of bf16 tensors");
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(invalid)?;
    let (header, data) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(invalid)?;
    let header: Map<String, Value> = serde_json::from_slice(header)?;
    let (mut altered, mut written) = (Map::new(), Vec::new());
    for (number, (name, tensor)) in (0_u64..).zip(&header) {
        if name == "__metadata__" {
            continue;
        }
        let numbers = |key: &str| -> Option<Vec<usize>> {
            tensor[key].as_array()?.iter().map(|number| Some(number.as_u64()? as usize)).collect()
        };
        let (shape, offsets) =
            (numbers("shape").ok_or_else(invalid)?, numbers("data_offsets").ok_or_else(invalid)?);
        let values =
            data.get(offsets[0]..offsets[1]).filter(|_| tensor["dtype"] == "BF16").ok_or_else(invalid)?;
        let values = values.as_chunks::<2>().0.iter();
        let mut values: Vec<f32> =
            values.map(|value| f32::from_bits(u32::from(u16::from_le_bytes(*value)) << 16)).collect();
        if let [_, columns] = shape[..] {
            match how {
                How::Int8 => values.chunks_mut(columns).for_each(round),
                How::Error(error) => multiply(&mut values, error, number),
            }
        }
        let start = written.len();
        written.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        altered.insert(
            name.clone(),
            json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, written.len()] }),
        );
    }
    let header = serde_json::to_vec(&altered)?;
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &written].concat();
    std::fs::write(to.join("model.safetensors"), file)?;
    Ok(to.to_owned())
}

fn round(row: &mut [f32]) {
    let scale = row.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
    if scale > 0.0 {
        for value in row {
            *value = (*value / scale).round() * scale;
        }
    }
}

fn multiply(values: &mut [f32], error: f64, tensor: u64) {
    let stream = Stream::new(tensor, Use::Chaos);
    for (place, value) in (0..).zip(values) {
        // Box and Muller.
        let (one, two) = (1.0 - stream.unit_at(2 * place), stream.unit_at(2 * place + 1));
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos();
        *value = (f64::from(*value) * (1.0 + error * normal)) as f32;
    }
}
