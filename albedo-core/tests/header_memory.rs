//! What reading a hostile header takes in memory, counted by the allocator of
//! this program, which therefore has one test.

use albedo_core::safetensors::read_header;
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes that reading takes, for each byte of the header: the bound that the
/// module's documentation states.
const MOST: f64 = 24.0;

/// Bytes of a header, about.
const SIZE: usize = 4 << 20;

/// `{`, what `entry` writes for 0, 1, 2, …, and `}`.
fn object(entry: impl Fn(usize) -> String) -> String {
    let mut json = String::from("{");
    for number in 0.. {
        if json.len() >= SIZE {
            break;
        }
        if number > 0 {
            json.push(',');
        }
        json.push_str(&entry(number));
    }
    json.push('}');
    json
}

#[test]
fn no_header_takes_more_memory_than_the_stated_bound() {
    let tensor = |name: usize, shape: &str| {
        format!(r#""{name:x}":{{"dtype":"U8","shape":[{shape}],"data_offsets":[0,0]}}"#)
    };
    let dimensions = "0,".repeat(63) + "0";
    let words = format!(r#"{{"__metadata__":{}}}"#, object(|number| format!(r#""{number:x}":"""#)));
    // Keys that are not in order leave a tree's nodes fuller or emptier.
    let shuffled = format!(
        r#"{{"__metadata__":{}}}"#,
        object(|number| format!(r#""{:x}":"""#, number.wrapping_mul(0x9E37_79B1) & 0xFFFF_FFFF))
    );
    for (what, json, accepted) in [
        ("words", words, true),
        ("shuffled words", shuffled, true),
        ("tensors", object(|number| tensor(number, "0")), true),
        ("scalars", object(|number| tensor(number, "")), false),
        ("shapes", object(|number| tensor(number, &dimensions)), true),
        ("one shape", format!(r#"{{"a":{{"shape":[{}0]"#, "0,".repeat(SIZE / 2)), false),
        ("depth", format!(r#"{{"a":{}"#, "[".repeat(SIZE)), false),
        ("one name", format!(r#"{{"{}":0}}"#, "n".repeat(SIZE)), false),
        ("one word", format!(r#"{{"__metadata__":{{"a":"{}"}}}}"#, "\\n".repeat(SIZE / 2)), true),
    ] {
        let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let read = read_header(&mut &*file, file.len() as u64);
        let times = (MEMORY.peak_usage() - before) as f64 / json.len() as f64;
        println!("{what}: {times:.1} times the header's {} bytes", json.len());
        assert_eq!(read.is_ok(), accepted, "{what}: {:?}", read.err());
        assert!(times <= MOST, "{what} takes {times:.1} times the header's bytes");
    }

    // The length that a file states is not believed: nothing is set aside for it.
    let file = [&100_000_000_u64.to_le_bytes()[..], b"{}"].concat();
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    read_header(&mut &*file, u64::MAX).expect_err("it ends early");
    assert!(MEMORY.peak_usage() - before < 64 << 10);
}
