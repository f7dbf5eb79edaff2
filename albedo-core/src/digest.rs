//! SHA-256 digests and the canonical JSON that they are taken over.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Fault, Result};

/// A SHA-256 digest; 64 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of nothing that is known.
    #[cfg(test)]
    pub(crate) const ZERO: Self = Self([0; 32]);

    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of everything that `reader` yields, in blocks of 1 MiB.
    pub fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        let mut hasher = Hasher::default();
        let mut block = vec![0; 1 << 20];
        loop {
            match reader.read(&mut block) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(read) => hasher.update(&block[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The digest of the canonical JSON of `value` ([`canonical_json`]).
    pub fn of_json(value: &impl Serialize) -> Result<Self> {
        canonical_json(value).map(Self::of)
    }

    /// The raw 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 12 digits: enough to tell things apart on a screen.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

/// HMAC-SHA256 of `message` under `key` (RFC 2104).
pub fn hmac(key: &[u8], message: &[u8]) -> Digest {
    const BLOCK: usize = 64;
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(Digest::of(key).as_bytes());
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let keyed = |pad: u8, parts: &[u8]| {
        let mut hasher = Hasher::default();
        hasher.update(padded.map(|byte| byte ^ pad));
        hasher.update(parts);
        hasher.finish()
    };
    keyed(0x5c, keyed(0x36, message).as_bytes())
}

/// Digests bytes as they pass by.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || {
            Error::new(
                ErrorKind::DataInvalid,
                "read a sha256 digest",
                format!("`{text}` is not 64 hexadecimal digits"),
            )
        };
        let digits = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        if digits.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(invalid);
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

impl schemars::JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "SHA-256, 64 hexadecimal digits",
            "pattern": "^(sha256:)?[0-9a-fA-F]{64}$"
        })
    }
}

/// JSON with object keys sorted by their bytes, no white space, and numbers as
/// `serde_json` prints them (the shortest decimal that reads back as the same
/// `f64`): the same value always has the same bytes.
///
/// # Errors
/// A value that has no JSON form: a path that is not UTF-8, which is the operator's; a map
/// with keys that are not strings, which is a bug.
pub fn canonical_json(value: &impl Serialize) -> Result<Vec<u8>> {
    const OPERATION: &str = "write canonical JSON";
    let value = serde_json::to_value(value).map_err(|error| {
        let message = error.to_string();
        // These are serde's words: it has no kind of error for such a path.
        let refused = if message.starts_with("path contains invalid UTF-8") {
            Error::new(ErrorKind::ConfigInvalid, OPERATION, "the name of a folder or file is not UTF-8")
                .with_fault(Fault::Operator)
                .with_hint("rename it: configurations and records hold text only")
        } else {
            Error::bug(OPERATION, message)
        };
        refused.with_source(error)
    })?;
    let mut out = Vec::new();
    write_canonical(&value, &mut out);
    Ok(out)
}

fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_bytes());
            out.push(b'{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(item, out);
            }
            out.push(b'}');
        }
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_round_trips_and_knows_the_empty_string() {
        let digest = Digest::of("");
        assert_eq!(digest.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse::<Digest>().ok(), Some(digest));
        assert!("xyz".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn hmac_gives_the_published_vectors() {
        // RFC 4231, test cases 1, 2 and 6.
        for (key, message, expected) in [
            (&[0x0b; 20][..], "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                b"Jefe",
                "what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                &[0xaa; 131],
                "Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            assert_eq!(hmac(key, message.as_bytes()).to_string(), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_the_operators() {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(b"models/\xff"));
        let error = canonical_json(&path).expect_err("is no text");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator), "{error}");
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{"b": [{"y": 1, "x": 0.1}], "a": "é\n"}"#).unwrap_or_default();
        let text = canonical_json(&value).unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&text), r#"{"a":"é\n","b":[{"x":0.1,"y":1}]}"#);
    }

    #[test]
    fn numbers_are_written_as_the_record_format_says() {
        for (value, text) in [
            (-0.0, "-0.0"),
            (12.0, "12.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::from(0.1_f32), "0.10000000149011612"),
            (1e15, "1000000000000000.0"),
            (1.5e16, "1.5e+16"),
            (1e-5, "0.00001"),
            (1e-6, "1e-6"),
            (5e-324, "5e-324"),
        ] {
            let bytes = canonical_json(&value).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&bytes), text);
            let read: f64 = serde_json::from_slice(&bytes).unwrap_or(f64::NAN);
            assert_eq!(read.to_bits(), value.to_bits(), "{text}");
        }
    }
}
