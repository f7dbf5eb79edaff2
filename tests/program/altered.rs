//! Models whose weights somebody has altered.

use std::fs;
use std::path::Path;

use albedo::safetensors::read_header;

/// Hands the numbers of each matrix in the file, which are BF16, to `change`, with the name of
/// the tensor and its columns.
pub(crate) fn alter(path: &Path, mut change: impl FnMut(&str, usize, &mut [f32])) {
    let mut bytes = fs::read(path).expect("reads");
    let size = bytes.len() as u64;
    let header = read_header(&mut &bytes[..], size).expect("a header");
    for (name, tensor) in &header.tensors {
        let &[_, columns] = &tensor.shape[..] else { continue };
        let data = &mut bytes[tensor.range.start as usize..tensor.range.end as usize];
        let numbers = data.chunks_exact(2);
        let mut numbers: Vec<f32> =
            numbers.map(|pair| f32::from_bits(u32::from(pair[1]) << 24 | u32::from(pair[0]) << 16)).collect();
        change(name, columns as usize, &mut numbers);
        for (pair, number) in data.chunks_exact_mut(2).zip(numbers) {
            // To the nearest, ties to even.
            let bits = number.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            pair.copy_from_slice(&(rounded as u16).to_le_bytes());
        }
    }
    fs::write(path, bytes).expect("writes");
}
