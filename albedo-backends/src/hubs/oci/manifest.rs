//! A manifest whose bytes have the pinned digest: everything wrong in it is its
//! author's doing.

use std::collections::{BTreeMap, BTreeSet};

use albedo_core::{Artefact, Digest, Error, ErrorKind, FileEntry, Result, Retry};
use serde::{Deserialize, Serialize};

use super::{RESOLVE, pointer};
use crate::cache::file_name;
use crate::hubs::files::Source;

/// Largest manifest: registries refuse larger ones.
// Source: the distribution project's registry, which accepts 4 MiB.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// Most layers. Source: chosen by albedo; the largest open models have some two hundred shards.
const MOST_LAYERS: usize = 4096;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const TITLE: &str = "org.opencontainers.image.title";

// Source: what hippius-hub 0.7.2 pushes.
const LAYOUT: &str = "com.hippius.layout";
const CHUNKED: &str = "chunked-v2";
const POINTER: &str = "application/vnd.hippius.pointer.v2";
const PACK: &str = "application/vnd.hippius.pack.v1";
const FILE_SIZE: &str = "com.hippius.file.size";
const FILE_DIGEST: &str = "com.hippius.file.digest";
const CHUNK_COUNT: &str = "com.hippius.chunk.count";

/// Largest pack. Source: hippius-hub 0.7.2 reads no larger one.
const LARGEST_PACK: u64 = 1 << 30;

/// What is read of a manifest, and written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Descriptor>,
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

/// What a manifest of files as they are says that it is. Source: chosen by albedo.
const PLAIN_ARTIFACT: &str = "application/vnd.albedo.model.v1";

/// What hippius-hub 0.7.2 says that a manifest with pointers is.
const CHUNKED_ARTIFACT: &str = "application/vnd.hippius.chunked.v2";

impl Manifest {
    /// The manifest of a model that albedo pushes. Nothing in it depends on when it is made.
    pub(super) fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        let chunked = layers.iter().any(|layer| layer.media_type == POINTER);
        Self {
            schema_version: 2,
            media_type: Some(MANIFEST.into()),
            artifact_type: Some(if chunked { CHUNKED_ARTIFACT } else { PLAIN_ARTIFACT }.into()),
            config: Some(config),
            layers,
            annotations: chunked.then(|| BTreeMap::from([(LAYOUT.into(), CHUNKED.into())])),
        }
    }
}

impl Descriptor {
    pub(super) fn new(kind: &str, digest: Digest, size: u64) -> Self {
        Self { media_type: kind.into(), digest: format!("sha256:{digest}"), size, annotations: None }
    }

    /// The layer of the file `name`.
    pub(super) fn file(name: &str, digest: Digest, size: u64) -> Self {
        Self::new("application/octet-stream", digest, size).with([(TITLE, name.to_owned())])
    }

    /// The layer of the pointer of the file `name`, which has `file` as its digest.
    pub(super) fn pointer(name: &str, pointer: &[u8], file: Digest, size: u64, chunks: usize) -> Self {
        Self::new(POINTER, Digest::of(pointer), pointer.len() as u64).with([
            (TITLE, name.to_owned()),
            (FILE_SIZE, size.to_string()),
            (FILE_DIGEST, format!("sha256:{file}")),
            (CHUNK_COUNT, chunks.to_string()),
        ])
    }

    /// The layer of a pack.
    pub(super) fn pack(digest: Digest, size: u64) -> Self {
        Self::new(PACK, digest, size)
    }

    fn with<const N: usize>(mut self, annotations: [(&str, String); N]) -> Self {
        self.annotations = Some(annotations.map(|(key, value)| (key.to_owned(), value)).into());
        self
    }
}

/// The layers of a manifest by what they are for.
#[derive(Debug)]
pub(super) struct Layers {
    /// In byte order of their names.
    pub(super) files: Vec<File>,
    /// Sizes of the packs.
    pub(super) packs: BTreeMap<Digest, u64>,
}

/// A layer that is a file, or the pointer of one.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) pointer: Option<Declared>,
}

/// What a pointer's layer says of its file, as far as it says it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Declared {
    pub(super) size: Option<u64>,
    pub(super) digest: Option<Digest>,
    pub(super) chunks: Option<u64>,
}

impl File {
    pub(super) fn plain(&self) -> (FileEntry, Source) {
        let entry = FileEntry::new(&self.name, self.size).with_sha256(self.digest);
        (entry, Source::Whole { key: self.digest.to_string() })
    }
}

/// The mistake of who made the manifest.
pub(super) fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, RESOLVE, message)
        .about(Artefact::Model)
        .with_retry(Retry::Never)
        .with_hint("push the model's folder with hippius-hub or `albedo hub push`")
}

/// Reads a manifest that has the pinned digest.
///
/// # Errors
/// [`malformed`].
pub(super) fn parse(bytes: &[u8]) -> Result<Layers> {
    if bytes.len() > MOST_BYTES {
        return Err(malformed("the manifest is too large")
            .with("bytes", bytes.len())
            .with("most", MOST_BYTES));
    }
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|error| malformed(format!("the manifest is none: {error}")))?;
    let kind = manifest.media_type.as_deref();
    if manifest.schema_version != 2 || kind.is_some_and(|kind| kind != MANIFEST && kind != DOCKER_MANIFEST) {
        return Err(malformed("the manifest is of another kind than an image's")
            .with("kind", kind.unwrap_or_default().escape_default()));
    }
    if manifest.layers.len() > MOST_LAYERS {
        return Err(malformed("the manifest has too many layers")
            .with("layers", manifest.layers.len())
            .with("most", MOST_LAYERS));
    }
    let layout = manifest.annotations.as_ref().and_then(|all| all.get(LAYOUT)).map(String::as_str);
    if layout.is_some_and(|layout| layout != CHUNKED) {
        return Err(malformed("the layout is unknown: files are plain layers or `chunked-v2`")
            .with("layout", layout.unwrap_or_default().escape_default()));
    }
    let mut layers = Layers { files: Vec::new(), packs: BTreeMap::new() };
    for (index, layer) in manifest.layers.into_iter().enumerate() {
        layer.sort(&mut layers).map_err(|error| error.with("layer", index))?;
    }
    layers.files.sort_by(|one, other| one.name.cmp(&other.name));
    check_names(&layers.files)?;
    check_pointers(&layers.files)?;
    Ok(layers)
}

impl Descriptor {
    /// Adds the layer to those of its purpose.
    fn sort(self, layers: &mut Layers) -> Result<()> {
        let digest = sha256(&self.digest)?;
        check_empty(self.size, digest)?;
        let annotation = |key: &str| self.annotations.as_ref().and_then(|all| all.get(key));
        let title = annotation(TITLE);
        match (self.media_type.as_str(), title) {
            (PACK, None) => {
                if self.size > LARGEST_PACK {
                    return Err(malformed("a pack is too large")
                        .with("bytes", self.size)
                        .with("most", LARGEST_PACK));
                }
                if layers.packs.insert(digest, self.size).is_some_and(|size| size != self.size) {
                    return Err(malformed("a pack is listed with two sizes"));
                }
                return Ok(());
            }
            (PACK, Some(_)) => return Err(malformed("a pack has a file's name")),
            (_, None) => return Err(malformed("a layer has no file's name").with("key", TITLE)),
            (_, Some(_)) => {}
        }
        let name = title.cloned().unwrap_or_default();
        file_name(&name).map_err(|why| malformed(why).with("file", name.escape_default()))?;
        let pointer = match self.media_type.as_str() {
            POINTER => {
                let number = |key: &'static str| {
                    let number = annotation(key).map(|text| text.parse::<u64>());
                    number.transpose().map_err(|_| malformed("an annotation is no number").with("key", key))
                };
                Some(Declared {
                    size: number(FILE_SIZE)?,
                    digest: annotation(FILE_DIGEST).map(|text| sha256(text)).transpose()?,
                    chunks: number(CHUNK_COUNT)?,
                })
            }
            _ => None,
        };
        layers.files.push(File { name, digest, size: self.size, pointer });
        Ok(())
    }
}

/// `sha256:` and 64 digits.
pub(super) fn sha256(text: &str) -> Result<Digest> {
    let digits = text.strip_prefix("sha256:").filter(|digits| !digits.contains(':'));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(|| {
        malformed("a digest is not `sha256:` and 64 digits").with("digest", text.escape_default())
    })
}

/// Nothing has one digest, and no other bytes have it.
pub(super) fn check_empty(size: u64, digest: Digest) -> Result<()> {
    if (size == 0) == (digest == Digest::of("")) {
        return Ok(());
    }
    Err(malformed("a size and a digest contradict each other: one of them is that of no bytes")
        .with("bytes", size)
        .with("digest", digest))
}

/// Checks the names, which are sorted.
fn check_names(files: &[File]) -> Result<()> {
    if files.is_empty() {
        return Err(malformed("the manifest names no file"));
    }
    let names: BTreeSet<_> = files.iter().map(|file| file.name.as_str()).collect();
    for (file, next) in files.iter().zip(files.iter().skip(1)) {
        if file.name == next.name {
            return Err(malformed("two files have one name").with("file", file.name.escape_default()));
        }
    }
    for file in files {
        let mut folders = file.name.match_indices('/').map(|(at, _)| &file.name[..at]);
        if folders.any(|folder| names.contains(folder)) {
            return Err(malformed("a file lies below another").with("file", file.name.escape_default()));
        }
    }
    Ok(())
}

/// Checks how much memory the pointers take: each file keeps the chunks of its own.
fn check_pointers(files: &[File]) -> Result<()> {
    let pointers = files.iter().filter(|file| file.pointer.is_some());
    let total = pointers.fold(0_u64, |total, file| total.saturating_add(file.size));
    if total > pointer::MOST_TOGETHER {
        return Err(malformed("the pointers are too large together")
            .with("bytes", total)
            .with("most", pointer::MOST_TOGETHER));
    }
    Ok(())
}
