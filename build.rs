//! Works out the digest of albedo's sources, which records name the build by:
//! SHA-256 of the lines `{sha256}  {path}\n` of every source file and `Cargo.lock`,
//! in byte order of their paths. Besides, what `albedo --version` says: the commit,
//! the features and the target.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    println!("cargo::rustc-env=ALBEDO_COMMIT={}", commit().unwrap_or_else(|| "unknown".into()));
    println!("cargo::rustc-env=ALBEDO_FEATURES={}", features());
    println!("cargo::rustc-env=ALBEDO_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    Ok(())
}

/// The commit that is built, marked if the sources differ from it. A package has it in
/// a file of Cargo's; a checkout asks Git.
fn commit() -> Option<String> {
    if let Ok(info) = fs::read_to_string(".cargo_vcs_info.json") {
        let commit =
            info.split('"').find(|word| word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit()))?;
        return Some(marked(commit, info.contains("\"dirty\": true")));
    }
    // A folder inside somebody else's checkout is not of their commit.
    if !Path::new(".git").exists() {
        return None;
    }
    // This file changes with every commit and every checkout.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&[&["status", "--porcelain", "--"][..], &SOURCES[..]].concat())?;
    Some(marked(&commit, !changed.is_empty()))
}

fn marked(commit: &str, changed: bool) -> String {
    let commit = commit.get(..12).unwrap_or(commit);
    if changed { format!("{commit} with changes") } else { commit.to_owned() }
}

/// What Git prints, if it is there and succeeds.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The features of the build, in alphabetical order.
fn features() -> String {
    let names = std::env::vars_os().filter_map(|(name, _)| {
        let name = name.to_str()?;
        let feature = name.strip_prefix("CARGO_FEATURE_")?.to_lowercase().replace('_', "-");
        (feature != "default").then_some(feature)
    });
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.join(", ")
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
