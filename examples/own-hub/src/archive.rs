//! The hub `archive`: `archive:owner/model@sha256:…` is the file `owner/model.tar`
//! of a folder, which has that digest.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo::digest::Hasher;
use albedo::prelude::*;
use albedo::{Digest, Fault, FileEntry, HubRef, ModelFiles, ModelHub, Provenance, Revision};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const RESOLVE: &str = "resolve a model's archive";

/// Size of a header, and of what an archive's parts are padded to.
const BLOCK: u64 = 512;

/// Models in tar archives.
#[derive(Debug)]
struct ArchiveHub {
    folder: PathBuf,
}

/// Settings of [`ArchiveHub`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The folder of the archives.
    path: PathBuf,
}

#[async_trait]
impl ModelHub for ArchiveHub {
    async fn resolve(&self, reference: &HubRef, cx: &CallContext) -> albedo::Result<Arc<dyn ModelFiles>> {
        reference.require_hub(Self::NAME, RESOLVE)?;
        let Revision::Sha256(pinned) = reference.revision() else {
            let message = "an archive's revision is no Git commit";
            return Err(Error::new(ErrorKind::ConfigInvalid, RESOLVE, message)
                .with("reference", reference)
                .with_hint("pin the archive's digest: `sha256sum` tells it"));
        };
        let path = self.folder.join(format!("{}.tar", reference.repository()));
        let read = cx.run(RESOLVE, tokio::task::spawn_blocking(move || read(path, pinned)));
        let read = read.await?.map_err(|error| Error::bug(RESOLVE, error.to_string()))?;
        Ok(Arc::new(read.map_err(|error| error.with("reference", reference))?))
    }
}

impl Plugin<dyn ModelHub> for ArchiveHub {
    const NAME: &'static str = "archive";
    const SUMMARY: &'static str = "models in tar archives, pinned by their digests";
    type Config = Config;
    type Checked = Config;

    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Config> {
        Ok(config)
    }

    async fn build(config: Config, cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn ModelHub>> {
        Ok(Arc::new(Self { folder: cx.path(config.path) }))
    }
}

register!(dyn ModelHub => ArchiveHub);

/// An archive with the place of each of its files.
#[derive(Debug)]
struct Archive {
    file: Arc<File>,
    entries: Vec<(FileEntry, u64)>,
}

#[async_trait]
impl ModelFiles for Archive {
    fn provenance(&self) -> Provenance {
        Provenance::Published
    }

    async fn list(&self, cx: &CallContext) -> albedo::Result<Vec<FileEntry>> {
        cx.check("list an archive")?;
        Ok(self.entries.iter().map(|(entry, _)| entry.clone()).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> albedo::Result<Vec<u8>> {
        const READ: &str = "read a file of an archive";
        let failed = |kind, message: &str| Error::new(kind, READ, message).with("file", name);
        let Some((entry, start)) = self.entries.iter().find(|(entry, _)| entry.name == name) else {
            return Err(failed(ErrorKind::NotFound, "the archive has no such file"));
        };
        if range.start > range.end || range.end > entry.size {
            return Err(failed(ErrorKind::DataInvalid, "the range reaches past the end of the file"));
        }
        let (file, at) = (Arc::clone(&self.file), start + range.start);
        let work = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, at).map(|()| bytes)
        });
        let bytes = cx.run(READ, work).await?.map_err(|error| Error::bug(READ, error.to_string()))?;
        bytes.map_err(|error| Error::io(READ, Path::new(name), error))
    }
}

/// Reads the archive `path` from front to back: its own digest, which has to be
/// `pinned`, and the place and digest of each file.
fn read(path: PathBuf, pinned: Digest) -> albedo::Result<Archive> {
    let io = |error| Error::io(RESOLVE, &path, error);
    // Not the contestant's: what it handed in has the pinned digest.
    let another = |found| {
        Error::new(ErrorKind::NotFound, RESOLVE, "the archive is of another revision")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with("found", found)
    };
    let file = File::open(&path).map_err(io)?;
    let mut reader = Hashed { file: &file, hasher: Hasher::default(), at: 0 };
    let entries = entries(&mut reader);
    // The digest comes first: what another archive holds does not matter.
    io::copy(&mut reader, &mut io::sink()).map_err(io)?;
    let found = reader.hasher.finish();
    if found != pinned {
        return Err(another(found));
    }
    let mut entries = entries.map_err(io)?;
    entries.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    Ok(Archive { file: Arc::new(file), entries })
}

struct Hashed<'a> {
    file: &'a File,
    hasher: Hasher,
    at: u64,
}

impl Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.hasher.update(&into[..read]);
        self.at += read as u64;
        Ok(read)
    }
}

/// The regular files of an archive in the format `ustar`.
fn entries(reader: &mut Hashed<'_>) -> io::Result<Vec<(FileEntry, u64)>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut entries = Vec::new();
    loop {
        let mut header = [0; BLOCK as usize];
        reader.read_exact(&mut header)?;
        if header.iter().all(|&byte| byte == 0) {
            return Ok(entries);
        }
        let text = |range: Range<usize>| {
            let text = header[range].split(|&byte| byte == 0).next().unwrap_or_default();
            std::str::from_utf8(text).map(str::trim).map_err(|_| invalid("a name is not UTF-8"))
        };
        let name = text(0..100)?.to_owned();
        let size = u64::from_str_radix(text(124..136)?, 8).map_err(|_| invalid("a size is no number"))?;
        if !matches!(header[156], b'0' | 0) {
            return Err(invalid("it holds something other than plain files"));
        }
        let start = reader.at;
        let mut hasher = Hasher::default();
        let mut left = size;
        let mut buffer = vec![0; 1 << 20];
        while left > 0 {
            let part = &mut buffer[..left.min(1 << 20) as usize];
            reader.read_exact(part)?;
            hasher.update(&*part);
            left -= part.len() as u64;
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut reader.by_ref().take(padding), &mut io::sink())?;
        entries.push((FileEntry::new(name, size).with_sha256(hasher.finish()), start));
    }
}

#[cfg(test)]
mod tests {
    use albedo::conformance::{HubFixture, check_hub};

    use super::*;

    /// An archive of `config.json` and `weights`.
    fn archive() -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, bytes) in [("config.json", &b"{}"[..]), ("weights", &[7; 1000])] {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
            header[156] = b'0';
            archive.extend_from_slice(&header);
            archive.extend_from_slice(bytes);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.extend_from_slice(&[0; 1024]);
        archive
    }

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_hub() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = archive();
        std::fs::create_dir(folder.path().join("owner")).expect("a folder");
        std::fs::write(folder.path().join("owner/model.tar"), &bytes).expect("writes");
        let revision = Revision::Sha256(Digest::of(&bytes));
        let reference = HubRef::new("archive", "owner/model", revision).expect("a reference");
        let hub = ArchiveHub { folder: folder.path().to_owned() };
        check_hub(&hub, &HubFixture::new(reference)).await.expect("conforms");
    }
}
