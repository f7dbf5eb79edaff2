//! Works out the digest of albedo's sources, which records name the build by:
//! SHA-256 of the lines `{sha256}  {path}\n` of every source file and `Cargo.lock`,
//! in byte order of their paths.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Folders and files that the program is built from; a published package has the
/// first ones only.
const SOURCES: [&str; 7] = [
    "Cargo.toml",
    "src",
    "Cargo.lock",
    "albedo-backends/src",
    "albedo-chain/src",
    "albedo-core/src",
    "albedo-judges/src",
];

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for source in SOURCES.iter().map(Path::new).filter(|source| source.exists()) {
        println!("cargo::rerun-if-changed={}", source.display());
        collect(source, &mut files)?;
    }
    files.sort_unstable();
    let mut lines = String::new();
    for file in files {
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{}  {}", hex(&fs::read(&file)?), file.display());
    }
    println!("cargo::rustc-env=ALBEDO_SOURCE={}", hex(lines.as_bytes()));
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in Sha256::digest(bytes) {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}
