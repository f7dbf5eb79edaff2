use albedo_core::rng::{Stream, Use};

use super::*;
use crate::screens::testing::{Memory, safetensors};

const HEADERS: [&str; 4] = [
    r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#,
    r#"{"a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]},"none":{"dtype":"I64","shape":[0,7],"data_offsets":[1,1]}}"#,
    r#"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,18446744073709551615]}}"#,
    r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
];

const INDEXES: [&str; 3] = [
    r#"{"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors"}}"#,
    r#"{"weight_map":{"a":"../../etc/passwd","b":"model-00002-of-00002.safetensors"}}"#,
    r#"{"weight_map":{"a":1}}"#,
];

/// Words that a mutation puts in: limits of numbers, and of JSON.
const WORDS: [&[u8]; 10] = [
    b"18446744073709551615",
    b"-1",
    b"1e999",
    b"[[[[[[[[",
    b"{\"",
    b"\"\\ud800\"",
    b"null",
    b"\xff\xfe",
    b",",
    b"0",
];

/// `bytes`, changed in one to four places.
fn mutated(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=stream.below(4) {
        let at = stream.below(bytes.len() as u64 + 1) as usize;
        match stream.below(5) {
            0 if at < bytes.len() => bytes[at] = stream.next_u64() as u8,
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, WORDS[stream.below(10) as usize].iter().copied())),
            3 => {
                let end = (at + stream.below(9) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + stream.below(40) as usize).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// Mutations of headers, lengths and indexes, by a fixed seed:
/// `ALBEDO_FUZZ_RUNS=10000000` for the long form.
#[tokio::test]
async fn no_header_and_no_index_breaks_the_reader() {
    let runs: u64 = std::env::var("ALBEDO_FUZZ_RUNS").map_or(20_000, |runs| runs.parse().expect("a number"));
    let mut stream = Stream::new(12, Use::RowDraw);
    let cx = CallContext::new();
    let mut accepted = 0;
    for _ in 0..runs {
        let header = HEADERS[stream.below(4) as usize];
        let whole = safetensors(header, 12);
        let shard = if stream.below(2) == 0 {
            // The length and the data are spoiled too.
            mutated(&whole, &mut stream)
        } else {
            let json = mutated(header.as_bytes(), &mut stream);
            [&(json.len() as u64).to_le_bytes()[..], &json, &[0; 12]].concat()
        };
        let index = mutated(INDEXES[stream.below(3) as usize].as_bytes(), &mut stream);
        let files = Memory(
            [("model-00001-of-00002.safetensors".to_owned(), shard), (INDEX.to_owned(), index)].into(),
        );
        let mut problems = Problems::default();
        let listing = Listing::read(&files, &mut problems, &cx).await.expect("listed");
        let tensors = listing.tensors(usize::MAX, &mut problems, &cx).await.expect("read");
        accepted += usize::from(!tensors.is_empty());
        assert!(problems.first().is_none_or(|problem| problem.message.len() < 2000));
    }
    assert!(accepted > 0, "no mutation was harmless: the mutations are too coarse to test anything");
}

/// Headers that name no new tensor: wrong ones, and one over and over.
#[tokio::test]
async fn headers_are_read_up_to_a_bound_whatever_is_in_them() {
    let wrong = safetensors(&"x".repeat(MAX_HEADER_BYTES as usize), 0);
    let alike = safetensors(&format!("{{{}}}", " ".repeat(MAX_HEADER_BYTES as usize - 2)), 0);
    for shard in [wrong, alike] {
        let names = (1..=5).map(|number| format!("model-{number:05}-of-00005.safetensors"));
        let files = Memory(names.map(|name| (name, shard.clone())).collect());
        let (mut problems, cx) = (Problems::default(), CallContext::new());
        let listing = Listing::read(&files, &mut problems, &cx).await.expect("listed");
        listing.tensors(1, &mut problems, &cx).await.expect("read");
        let finding = problems.finding(Provenance::Published, Value::Null);
        let evidence = finding.evidence();
        let listed = evidence["problems"].as_array().expect("problems");
        let last = listed.last().expect("one");
        // Two headers are within the bound, the third goes beyond it.
        assert_eq!(last["of"], "model-00004-of-00005.safetensors", "{evidence}");
        assert!(last["message"].to_string().contains("for 1 tensors"), "{evidence}");
    }
}

/// The corpora that fuzzing starts from, and what it found worth keeping.
#[tokio::test]
async fn the_fuzzers_corpora_come_to_findings() {
    let lines = |text: &'static str| {
        text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let digits = line["hex"].as_str().expect("digits").as_bytes().as_chunks::<2>().0;
            let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
            digits.iter().map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect::<Vec<u8>>()
        })
    };
    let cx = CallContext::new();
    let mut accepted = 0;
    for file in lines(include_str!("../../../corpus/headers.jsonl")) {
        accepted +=
            usize::from(albedo_core::safetensors::read_header(&mut &*file, file.len() as u64).is_ok());
    }
    for bytes in lines(include_str!("../../../corpus/files.jsonl")) {
        let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX];
        let parts = bytes.split(|&byte| byte == 0xFF).map(<[u8]>::to_vec);
        let files = Memory(names.into_iter().map(str::to_owned).zip(parts).collect());
        let mut problems = Problems::default();
        let listing = Listing::read(&files, &mut problems, &cx).await.expect("listed");
        accepted +=
            usize::from(!listing.tensors(usize::MAX, &mut problems, &cx).await.expect("read").is_empty());
    }
    assert!(accepted > 2, "the corpora hold no file that is well formed");
}
