//! The demo pack of albedo in one compressed file: two small trained models and pinned
//! tasks. `albedo` unpacks it with its feature `demo`.
//!
//! ```
//! let entries = albedo_demo::entries()?;
//! assert!(entries.iter().any(|entry| entry.name == "duel.toml"));
//! # Ok::<(), std::io::Error>(())
//! ```
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// What `demo.pack` holds; its form is in the package's README.
static PACK: &[u8] = include_bytes!("../demo.pack");

/// How the names of files end whose bytes are kept as two halves.
const WEIGHTS: &str = ".safetensors";

/// One file of the pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the pack's folder, `/` between its parts.
    pub name: String,
    /// Its size.
    pub bytes: usize,
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// The lines that list the files: they name the pack.
///
/// # Errors
/// The pack is damaged.
pub fn listing() -> io::Result<&'static str> {
    Ok(split(PACK)?.0)
}

/// The files of the pack, in order.
///
/// # Errors
/// The pack is damaged.
pub fn entries() -> io::Result<Vec<Entry>> {
    listed(listing()?)
}

/// Hands every file to `write`, in order. At most one is in memory at a time.
///
/// # Errors
/// The pack is damaged; what `write` meets.
pub fn unpack(mut write: impl FnMut(&Entry, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let (listing, stream) = split(PACK)?;
    let mut stream = ZlibDecoder::new(stream);
    for entry in listed(listing)? {
        let mut bytes = vec![0; entry.bytes];
        stream.read_exact(&mut bytes)?;
        if entry.name.ends_with(WEIGHTS) {
            bytes = joined(&bytes);
        }
        write(&entry, &bytes)?;
    }
    Ok(())
}

/// A pack of `files`, each a name and its bytes, with what `sha256` says of each.
///
/// # Errors
/// A name with a space at its end or a line break: the listing could not hold it.
pub fn pack(files: &[(String, Vec<u8>)], sha256: impl Fn(&[u8]) -> String) -> io::Result<Vec<u8>> {
    let mut packed = Vec::new();
    for (name, bytes) in files {
        if name.contains('\n') || name.trim() != name {
            return Err(io::Error::other(format!("{name:?} cannot be listed")));
        }
        writeln!(packed, "{} {} {name}", sha256(bytes), bytes.len())?;
    }
    packed.push(b'\n');
    let mut stream = ZlibEncoder::new(packed, Compression::best());
    for (name, bytes) in files {
        if name.ends_with(WEIGHTS) {
            stream.write_all(&halves(bytes))?;
        } else {
            stream.write_all(bytes)?;
        }
    }
    stream.finish()
}

/// The listing and the compressed stream of `pack`.
fn split(pack: &[u8]) -> io::Result<(&str, &[u8])> {
    let end = pack.windows(2).position(|pair| pair == b"\n\n");
    let end = end.ok_or_else(|| damaged("it has no listing"))?;
    let listing = std::str::from_utf8(&pack[..=end]).map_err(|_| damaged("its listing is not UTF-8"))?;
    Ok((listing, &pack[end + 2..]))
}

fn listed(listing: &str) -> io::Result<Vec<Entry>> {
    let entry = |line: &str| {
        let (sha256, rest) = line.split_once(' ')?;
        let (bytes, name) = rest.split_once(' ')?;
        Some(Entry { name: name.to_owned(), bytes: bytes.parse().ok()?, sha256: sha256.to_owned() })
    };
    let entries = listing.lines().map(|line| entry(line).ok_or_else(|| damaged("a line of its listing")));
    entries.collect()
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the demo pack is damaged: {what}"))
}

/// The bytes at even places, then those at odd ones.
fn halves(bytes: &[u8]) -> Vec<u8> {
    let odd = bytes.iter().skip(1).step_by(2);
    bytes.iter().step_by(2).chain(odd).copied().collect()
}

/// What [`halves`] took apart.
fn joined(halves: &[u8]) -> Vec<u8> {
    let (even, odd) = halves.split_at(halves.len().div_ceil(2));
    let place = |place: usize| if place.is_multiple_of(2) { even[place / 2] } else { odd[place / 2] };
    (0..halves.len()).map(place).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use sha2::{Digest, Sha256};

    use super::*;

    fn sha256(bytes: &[u8]) -> String {
        Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    fn collect(root: &Path, folder: &Path, files: &mut Vec<(String, Vec<u8>)>) {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(folder).expect("lists").map(|entry| entry.expect("lists").path()).collect();
        entries.sort_unstable();
        for path in entries {
            // What the reader of tasks remembers beside them is not the pack's.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            if path.is_dir() {
                collect(root, &path, files);
            } else {
                let name =
                    path.strip_prefix(root).expect("below").to_str().expect("UTF-8").replace('\\', "/");
                files.push((name, fs::read(&path).expect("reads")));
            }
        }
    }

    /// The repository's demo pack; a published package has none beside it.
    fn files() -> Option<Vec<(String, Vec<u8>)>> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo");
        fs::read(root.join("duel.toml")).ok()?;
        let mut files = Vec::new();
        for name in ["duel.toml", "distil.jsonl.gz"] {
            files.push((name.to_owned(), fs::read(root.join(name)).expect("reads")));
        }
        for folder in ["models", "tasks"] {
            collect(&root, &root.join(folder), &mut files);
        }
        Some(files)
    }

    #[test]
    fn the_pack_is_the_repositorys_demo() {
        let Some(files) = files() else { return };
        if std::env::var_os("ALBEDO_WRITE_DEMO").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo.pack");
            fs::write(path, pack(&files, sha256).expect("packs")).expect("writes");
            return;
        }
        let mut unpacked = Vec::new();
        unpack(|entry, bytes| {
            assert_eq!((entry.bytes, &entry.sha256), (bytes.len(), &sha256(bytes)));
            unpacked.push((entry.name.clone(), bytes.to_vec()));
            Ok(())
        })
        .expect("unpacks");
        let names =
            |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&unpacked), names(&files));
        assert!(unpacked == files, "a file differs: write the pack again, as the README says");
        assert!(PACK.len() < 10_000_000, "{} bytes do not fit into a package", PACK.len());
    }

    #[test]
    fn halves_join_and_a_damaged_pack_is_refused() {
        for bytes in [&b""[..], b"a", b"ab", b"abcde"] {
            assert_eq!(joined(&halves(bytes)), bytes);
        }
        let files = [("a b".to_owned(), b"text".to_vec()), ("m.safetensors".to_owned(), b"12345".to_vec())];
        let packed = pack(&files, |_| "0".into()).expect("packs");
        let (listing, _) = split(&packed).expect("has a listing");
        assert_eq!(listing, "0 4 a b\n0 5 m.safetensors\n");
        assert!(split(b"no listing").is_err() && listed("x").is_err());
    }
}
