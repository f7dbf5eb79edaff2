//! The header of a `safetensors` file, read without trust in the file: reading
//! takes at most 24 times the header's bytes of memory (a test counts them,
//! `tests/header_memory.rs`), and a header that is accepted describes exactly
//! the bytes that follow it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::{Artefact, Error, ErrorKind, Result};

/// Reads the header of a file of `file_bytes` bytes from its start; `reader` is
/// left at the first byte of the data.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] for a header that is not the format's, has a name
/// twice, or whose tensors do not cover the data to its end without overlap or
/// hole; [`ErrorKind::Unavailable`] if reading fails.
pub fn read_header(reader: &mut impl Read, file_bytes: u64) -> Result<Header> {
    let (header, promised) = read_promise(reader, file_bytes)?;
    if promised != file_bytes {
        return Err(invalid(format!("the file has {file_bytes} bytes, the header promises {promised}"))
            .with_hint("fetch the file again"));
    }
    Ok(header)
}

/// As [`read_header`], but of a file that may have been cut short behind its
/// header, or have more bytes than that: gives the header and the bytes that
/// it promises the file to have.
///
/// # Errors
/// As [`read_header`], except that the end of the data is not checked.
pub fn read_promise(reader: &mut impl Read, file_bytes: u64) -> Result<(Header, u64)> {
    let mut length = [0; LENGTH_BYTES as usize];
    reader.read_exact(&mut length).map_err(|error| unreadable(error, file_bytes))?;
    let length = u64::from_le_bytes(length);
    let room = file_bytes.saturating_sub(LENGTH_BYTES);
    if length > MAX_HEADER_BYTES || length > room {
        return Err(invalid("the header is longer than the format or the file allows")
            .with("header_bytes", length)
            .with("most", room.min(MAX_HEADER_BYTES)));
    }
    let mut json = Vec::new();
    reader.take(length).read_to_end(&mut json).map_err(|error| unreadable(error, file_bytes))?;
    if json.len() as u64 != length {
        return Err(invalid("the file ends inside its header").with("header_bytes", length));
    }
    if json.first() != Some(&b'{') {
        return Err(invalid("the header does not start with `{`"));
    }
    let RawHeader { tensors, metadata } = serde_json::from_slice(&json)
        .map_err(|error| invalid(bounded(&error.to_string())).with_source(error))?;
    drop(json);

    let data = LENGTH_BYTES + length;
    let tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let info = tensor.resolve(data).map_err(|error| error.with("tensor", bounded(&name)))?;
            Ok((name, info))
        })
        .collect::<Result<BTreeMap<_, _>>>()?;
    let end = check_cover(&tensors, data)?;
    Ok((Header { tensors, metadata }, end))
}

/// What a file says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its tensors, by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Its free-form words (`__metadata__`).
    pub metadata: BTreeMap<String, String>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, the slowest first; none for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, as positions in the file.
    pub range: Range<u64>,
}

/// Type of an element. The format's types of less than a byte are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[non_exhaustive]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned, 8 bits.
    U8,
    /// Signed, 8 bits.
    I8,
    /// 8-bit float, 4 exponent and 3 mantissa bits.
    #[serde(rename = "F8_E4M3")]
    F8E4m3,
    /// 8-bit float, 5 exponent and 2 mantissa bits.
    #[serde(rename = "F8_E5M2")]
    F8E5m2,
    /// 8-bit scale, exponent only.
    #[serde(rename = "F8_E8M0")]
    F8E8m0,
    /// Unsigned, 16 bits.
    U16,
    /// Signed, 16 bits.
    I16,
    /// IEEE half precision.
    F16,
    /// The upper half of an [`Dtype::F32`].
    Bf16,
    /// Unsigned, 32 bits.
    U32,
    /// Signed, 32 bits.
    I32,
    /// IEEE single precision.
    F32,
    /// Unsigned, 64 bits.
    U64,
    /// Signed, 64 bits.
    I64,
    /// IEEE double precision.
    F64,
    /// Two [`Dtype::F32`], real and imaginary.
    C64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E4m3 | Self::F8E5m2 | Self::F8E8m0 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
        }
    }

    /// Bits of one element.
    pub fn bits(self) -> u64 {
        self.bytes() * 8
    }
}

/// Bytes of the header's length, which every file starts with.
const LENGTH_BYTES: u64 = 8;

/// The format's own limit on a header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Limit on a tensor's name in bytes; published models stay below 200.
const MAX_NAME_BYTES: usize = 1024;

/// Limit on a tensor's dimensions, which is that of `PyTorch` and `NumPy`.
const MAX_DIMENSIONS: usize = 64;

/// The key of the free-form words, which is no tensor's name.
const METADATA: &str = "__metadata__";

/// The JSON object, each key once.
struct RawHeader {
    tensors: BTreeMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tensors;

        impl<'de> Visitor<'de> for Tensors {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = BTreeMap::new();
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        if metadata.replace(map.next_value::<Metadata>()?.0).is_some() {
                            return Err(duplicate(METADATA));
                        }
                        continue;
                    }
                    if name.is_empty() || name.len() > MAX_NAME_BYTES {
                        let bytes = name.len();
                        return Err(A::Error::custom(format_args!(
                            "a tensor's name has {bytes} bytes, not 1 to {MAX_NAME_BYTES}"
                        )));
                    }
                    insert(&mut tensors, name, map.next_value()?)?;
                }
                Ok(RawHeader { tensors, metadata: metadata.unwrap_or_default() })
            }
        }

        deserializer.deserialize_map(Tensors)
    }
}

/// The free-form words, each key once.
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;

        impl<'de> Visitor<'de> for Words {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut words = BTreeMap::new();
                while let Some((key, word)) = map.next_entry()? {
                    insert(&mut words, key, word)?;
                }
                Ok(Metadata(words))
            }
        }

        deserializer.deserialize_map(Words)
    }
}

/// A tensor as the header writes it: offsets count from the data's start.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: Dtype,
    #[serde(deserialize_with = "dimensions")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// At most [`MAX_DIMENSIONS`] numbers.
fn dimensions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Dimensions;

    impl<'de> Visitor<'de> for Dimensions {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = numbers.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(A::Error::custom(format_args!(
                        "a shape has more than {MAX_DIMENSIONS} dimensions"
                    )));
                }
                shape.push(dimension);
            }
            Ok(shape)
        }
    }

    deserializer.deserialize_seq(Dimensions)
}

impl RawTensor {
    /// The tensor of a file whose data starts at `data`.
    fn resolve(self, data: u64) -> Result<TensorInfo> {
        let Self { dtype, shape, data_offsets: (begin, end) } = self;
        let bytes = shape
            .iter()
            .try_fold(dtype.bytes(), |bytes, &dimension| bytes.checked_mul(dimension))
            .ok_or_else(|| invalid("the shape's bytes are more than 64 bits count"))?;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(invalid(format!("data_offsets are {begin} to {end}, its shape takes {bytes} bytes")));
        }
        let absolute = |offset: u64| {
            data.checked_add(offset).ok_or_else(|| invalid("data_offsets are more than 64 bits count"))
        };
        Ok(TensorInfo { dtype, shape, range: absolute(begin)?..absolute(end)? })
    }
}

/// Checks that `tensors` cover the bytes from `data` on, each once, and gives
/// their end.
fn check_cover(tensors: &BTreeMap<String, TensorInfo>, data: u64) -> Result<u64> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_unstable_by_key(|(_, info)| (info.range.start, info.range.end));
    let mut covered = data;
    for (name, TensorInfo { range, .. }) in ordered {
        if range.start != covered {
            let message =
                if range.start < covered { "tensors overlap" } else { "bytes before a tensor are nobody's" };
            return Err(invalid(message)
                .with("tensor", bounded(name))
                .with("starts", range.start)
                .with("expected", covered));
        }
        covered = range.end;
    }
    Ok(covered)
}

fn insert<V, E: serde::de::Error>(map: &mut BTreeMap<String, V>, key: String, value: V) -> Result<(), E> {
    match map.entry(key) {
        Entry::Vacant(entry) => {
            entry.insert(value);
            Ok(())
        }
        Entry::Occupied(entry) => Err(duplicate(entry.key())),
    }
}

fn duplicate<E: serde::de::Error>(key: &str) -> E {
    E::custom(format_args!("`{}` is there twice", bounded(key)))
}

/// `text` in one line of at most 200 characters: it may quote the file.
fn bounded(text: &str) -> String {
    text.escape_debug().take(200).collect()
}

fn unreadable(error: io::Error, file_bytes: u64) -> Error {
    let error = if error.kind() == io::ErrorKind::UnexpectedEof {
        invalid("the file ends before its header").with_source(error)
    } else {
        Error::new(ErrorKind::Unavailable, OPERATION, error.to_string()).with_source(error)
    };
    error.with("file_bytes", file_bytes)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, message).about(Artefact::Model)
}

const OPERATION: &str = "read the safetensors header";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file of header `json` and `data` bytes of data.
    fn file(json: &str, data: usize) -> Vec<u8> {
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(json.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn read(file: &[u8]) -> Result<Header> {
        read_header(&mut &*file, file.len() as u64)
    }

    #[test]
    fn a_header_gives_positions_in_the_file() {
        let json = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F8_E4M3","shape":[],"data_offsets":[12,13]},
            "none":{"dtype":"I64","shape":[0,7],"data_offsets":[12,12]},
            "a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}   "#;
        let file = file(json, 13);
        let mut reader = &*file;
        let header = read_header(&mut reader, file.len() as u64).expect("a good header");
        assert_eq!(reader.len(), 13);
        assert_eq!(header.metadata["format"], "pt");
        let start = file.len() as u64 - 13;
        let a = TensorInfo { dtype: Dtype::Bf16, shape: vec![2, 3], range: start..start + 12 };
        assert_eq!(header.tensors["a"], a);
        assert_eq!(header.tensors["b"].range, start + 12..start + 13);
        assert!(header.tensors["none"].range.is_empty());
    }

    #[test]
    fn every_fault_is_refused_by_name() {
        let tensor = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#""t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
        };
        let one = tensor("U8", "[4]", "[0,4]");
        for (json, data, message) in [
            ("not json".into(), 0, "does not start with `{`"),
            (" {}".into(), 0, "does not start with `{`"),
            ("{".into(), 0, "EOF"),
            ("{} {}".into(), 0, "trailing characters"),
            (format!("{{{one},{one}}}"), 4, "`t` is there twice"),
            (format!(r#"{{{one},"\u0074":{}}}"#, &one[4..]), 4, "`t` is there twice"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "`__metadata__` is there twice"),
            (r#"{"__metadata__":{"a":"","a":""}}"#.into(), 0, "`a` is there twice"),
            (r#"{"__metadata__":{"a":1}}"#.into(), 0, "expected a string"),
            (format!("{{\"{}\":0}}", "n".repeat(1025)), 0, "name has 1025 bytes"),
            (r#"{"":0}"#.into(), 0, "name has 0 bytes"),
            (r#"{"t":{"dtype":"U8","dtype":"U8"}}"#.into(), 0, "duplicate field `dtype`"),
            (r#"{"t":{"dtype":"U8","shape":[0]}}"#.into(), 0, "missing field `data_offsets`"),
            (r#"{"t":{"sparse":true}}"#.into(), 0, "unknown field `sparse`"),
            (format!("{{{}}}", tensor("Q4", "[4]", "[0,4]")), 4, "unknown variant `Q4`"),
            (format!("{{{}}}", tensor("U8", "[-1]", "[0,4]")), 4, "invalid value"),
            (format!("{{{}}}", tensor("U8", "[4.5]", "[0,4]")), 4, "invalid type"),
            (
                format!("{{{}}}", tensor("U8", &format!("[{}1]", "1,".repeat(64)), "[0,1]")),
                1,
                "more than 64 dimensions",
            ),
            (format!("{{{}}}", tensor("U8", "[4]", "[0]")), 4, "invalid length"),
            (format!("{{{}}}", tensor("U8", "[4294967296,4294967296]", "[0,4]")), 4, "64 bits"),
            (format!("{{{}}}", tensor("U16", "[9223372036854775808]", "[0,0]")), 0, "64 bits"),
            (format!("{{{}}}", tensor("U8", "[4]", "[4,0]")), 4, "data_offsets are 4 to 0"),
            (format!("{{{}}}", tensor("U16", "[4]", "[0,4]")), 4, "its shape takes 8 bytes"),
            (
                format!("{{{}}}", tensor("U8", "[4]", "[18446744073709551611,18446744073709551615]")),
                4,
                "data_offsets are more than 64 bits",
            ),
            (format!("{{{}}}", tensor("U8", "[4]", "[1,5]")), 5, "bytes before a tensor"),
            (format!("{{{one},{}}}", one.replace("\"t\"", "\"u\"")), 4, "tensors overlap"),
            (format!("{{{one}}}"), 3, "the file has 64 bytes, the header promises 65"),
            (format!("{{{one}}}"), 5, "the file has 66 bytes, the header promises 65"),
            ("[".repeat(200), 0, "does not start with `{`"),
            (format!("{{\"t\":{}", "[".repeat(200)), 0, "expected value"),
        ] {
            let error = read(&file(&json, data)).expect_err(&json);
            assert_eq!(error.kind(), ErrorKind::DataInvalid, "{json}: {error}");
            assert!(error.message().contains(message), "{json}: {error}");
        }
    }

    #[test]
    fn lengths_that_no_header_has_are_refused() {
        for (length, bytes, message) in [
            (3_u64, 10, "longer than the format or the file allows"),
            (u64::MAX, 10, "longer than the format or the file allows"),
            (100_000_001, u64::MAX, "longer than the format or the file allows"),
            (100_000_000, u64::MAX, "ends inside its header"),
        ] {
            let file = [&length.to_le_bytes()[..], b"{}"].concat();
            let error = read_header(&mut &*file, bytes).expect_err(message);
            assert!(error.message().contains(message), "{error}");
        }
        let error = read(&[0; 7]).expect_err("too short");
        assert!(error.message().contains("ends before its header"), "{error}");
    }

    #[test]
    fn an_error_quotes_little_of_the_file_and_in_one_line() {
        for json in [
            format!(
                r#"{{"t":{{"dtype":"
{}"}}}}"#,
                "U".repeat(100_000)
            ),
            format!(
                r#"{{"
{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,0]}}}}"#,
                "n".repeat(1000)
            ),
        ] {
            let line = read(&file(&json, 0)).expect_err("refused").to_string();
            assert!(line.len() < 500 && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_failing_disk_is_not_the_files_fault() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("no carrier"))
            }
        }
        let error = read_header(&mut Broken, 100).expect_err("unreadable");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    const DTYPES: [&str; 17] = [
        "BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "U16", "I16", "F16", "BF16", "U32", "I32",
        "F32", "U64", "I64", "F64", "C64",
    ];

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), json in ".{0,80}") {
            let _ = read(&bytes);
            let _ = read(&file(&json, 0));
        }

        #[test]
        fn a_damaged_header_never_panics(at in 0_usize..120, byte in any::<u8>(), cut in 0_usize..120) {
            let json = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"__metadata__":{"x":"y"}}"#;
            let mut file = file(json, 12);
            if let Some(damaged) = file.get_mut(at) {
                *damaged = byte;
            }
            let _ = read(&file);
            file.truncate(cut);
            if cut < 8 + json.len() + 12 {
                prop_assert!(read(&file).is_err());
            }
        }

        #[test]
        fn a_written_header_is_read_back(
            tensors in proptest::collection::btree_map(
                "[ -~é\n]{1,20}",
                (0..DTYPES.len(), proptest::collection::vec(0_u64..5, 0..4)),
                0..8,
            ),
            metadata in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..4),
        ) {
            let mut json = serde_json::Map::new();
            json.insert(METADATA.into(), serde_json::json!(metadata));
            let mut end = 0;
            let mut expected = BTreeMap::new();
            for (name, (dtype, shape)) in tensors {
                let dtype: Dtype = serde_json::from_value(DTYPES[dtype].into()).expect("a type");
                let begin = end;
                end += shape.iter().product::<u64>() * dtype.bytes();
                let offsets = [begin, end];
                json.insert(
                    name.clone(),
                    serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
                );
                expected.insert(name, (dtype, shape, offsets));
            }
            let json = serde_json::Value::from(json).to_string();
            let header = read(&file(&json, end as usize)).expect("a good header");
            let data = 8 + json.len() as u64;
            let tensors: BTreeMap<_, _> = header
                .tensors
                .into_iter()
                .map(|(name, TensorInfo { dtype, shape, range })| {
                    (name, (dtype, shape, [range.start - data, range.end - data]))
                })
                .collect();
            prop_assert_eq!(tensors, expected);
            prop_assert_eq!(header.metadata, metadata);
        }
    }
}
