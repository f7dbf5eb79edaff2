//! The header of a safetensors file: whatever it is, it is read or refused, in
//! memory of at most 24 times its bytes; what is read covers the file exactly.
#![no_main]

use albedo_core::safetensors::read_header;
use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

fuzz_target!(|file: &[u8]| {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let read = read_header(&mut &*file, file.len() as u64);
    assert!(MEMORY.peak_usage() - before <= 24 * file.len() + (64 << 10));
    if let Ok(header) = read {
        let mut ranges: Vec<_> = header.tensors.into_values().map(|tensor| tensor.range).collect();
        ranges.sort_by_key(|range| (range.start, range.end));
        assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
        assert!(ranges.last().is_none_or(|range| range.end == file.len() as u64));
    }
});
