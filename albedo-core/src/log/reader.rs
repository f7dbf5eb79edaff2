//! Reading a log, and proving what is in it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::head::Head;
use super::merkle::{Leaves, Node, consistency_path, empty_root, inclusion_path, leaf_hash, node_hash};
use super::note;
use super::proof::{ConsistencyProof, InclusionProof};
use super::tiles::{CHECKPOINT, Kind, Tile, WIDTH, invalid, read_entries, read_hashes, tile_of};
use super::{Entry, LogFiles};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::signer::PublicKey;

/// A log as its newest head says it is. Nothing of it is believed that the head's
/// hash does not cover.
#[derive(Debug)]
pub struct Log {
    files: Arc<dyn LogFiles>,
    head: Head,
    tiles: Mutex<BTreeMap<Tile, Arc<Vec<Digest>>>>,
}

impl Log {
    /// Reads the newest head of the log in `files`, which `key` has to have signed.
    /// Without a key, it is not known who signed it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no log; [`ErrorKind::DataInvalid`] if its
    /// head is malformed or not signed by `key`; what reading meets.
    pub async fn open(files: Arc<dyn LogFiles>, key: Option<&PublicKey>, cx: &CallContext) -> Result<Self> {
        let Some(bytes) = files.read(CHECKPOINT, note::MAX_BYTES, cx).await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "read the log",
                "there is no log: its `checkpoint` is missing",
            )
            .with_fault(Fault::Operator)
            .with_hint("check the log's folder or address"));
        };
        let text = String::from_utf8(bytes).map_err(|_| invalid("its `checkpoint` is not UTF-8"))?;
        let head = Head::parse(&text)?;
        if let Some(key) = key {
            head.verify(key)?;
        }
        Ok(Self { files, head, tiles: Mutex::default() })
    }

    /// The newest head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// All entries, as bytes. Every tile of the log is compared with them, and they
    /// with the head.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], naming the file that is missing, malformed or not
    /// what the others say.
    pub async fn entries(&self, cx: &CallContext) -> Result<Vec<Vec<u8>>> {
        let size = self.head.size;
        let mut entries = Vec::new();
        for index in 0.. {
            let Some(tile) = Tile::of(Kind::Entries, index, size) else { break };
            let bytes = self.file(tile, cx).await?;
            let bundle =
                read_entries(&bytes.0, bytes.1.width).map_err(|error| error.with("file", tile.path()))?;
            entries.extend(bundle.into_iter().take(tile.width as usize));
        }
        let mut hashes: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        if root(&hashes) != self.head.root {
            return Err(invalid("its entries do not have the hash that its head states")
                .with("stated", self.head.root)
                .with("actual", root(&hashes)));
        }
        for level in 0.. {
            for (index, expected) in hashes.chunks(WIDTH as usize).enumerate() {
                let tile =
                    Tile { kind: Kind::Hashes(level), index: index as u64, width: expected.len() as u64 };
                if *self.tile(tile, cx).await? != expected {
                    return Err(
                        invalid("a tile does not have the hashes of the entries").with("file", tile.path())
                    );
                }
            }
            hashes = hashes.as_chunks::<{ WIDTH as usize }>().0.iter().map(|tile| subtree(tile)).collect();
            if hashes.is_empty() {
                break;
            }
        }
        Ok(entries)
    }

    /// Proves that entry `index` is in the log.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such entry; [`ErrorKind::DataInvalid`]
    /// if the log's tiles do not have the hash that its head states.
    pub async fn prove_inclusion(&self, index: u64, cx: &CallContext) -> Result<InclusionProof> {
        let size = self.head.size;
        let Some(bundle) = Tile::of(Kind::Entries, index / WIDTH, size).filter(|_| index < size) else {
            let message = format!("there is no entry {index} among the {size} of the log");
            return Err(Error::new(ErrorKind::NotFound, "prove an entry of the log", message));
        };
        let (bytes, tile) = self.file(bundle, cx).await?;
        let mut entries =
            read_entries(&bytes, tile.width).map_err(|error| error.with("file", tile.path()))?;
        let entry = entries.swap_remove((index % WIDTH) as usize);
        let path = self.hashes(&inclusion_path(index, size), cx).await?;
        let proof = InclusionProof { index, entry, path, head: self.head.clone() };
        proof.check(None)?;
        Ok(proof)
    }

    /// Proves that the log begins with the `old` entries that it had once.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the log is shorter; [`ErrorKind::DataInvalid`] if
    /// the log's tiles do not have the hash that its head states.
    pub async fn prove_consistency(&self, old: u64, cx: &CallContext) -> Result<ConsistencyProof> {
        let size = self.head.size;
        if old > size {
            let message = format!("the log has {size} entries, and {old} are to be its beginning");
            return Err(Error::new(ErrorKind::NotFound, "prove the beginning of a log", message));
        }
        let path = if old == 0 { Vec::new() } else { self.hashes(&consistency_path(old, size), cx).await? };
        let old_root = self.root_of(old, cx).await?;
        let proof = ConsistencyProof { size: old, root: old_root, path, head: self.head.clone() };
        proof.check()?;
        Ok(proof)
    }

    /// The hash of the tree of the first `size` entries, which the log has.
    async fn root_of(&self, size: u64, cx: &CallContext) -> Result<Digest> {
        Ok(self.hashes(&[Leaves { start: 0, end: size }], cx).await?[0])
    }

    async fn hashes(&self, path: &[Leaves], cx: &CallContext) -> Result<Vec<Digest>> {
        let mut hashes = Vec::new();
        for leaves in path {
            let mut nodes = Vec::new();
            for node in leaves.nodes() {
                nodes.push(self.node(node, cx).await?);
            }
            hashes.push(Leaves::hash(&nodes));
        }
        Ok(hashes)
    }

    async fn node(&self, node: Node, cx: &CallContext) -> Result<Digest> {
        let (tile, range) = tile_of(node, self.head.size)
            .ok_or_else(|| Error::bug("read the log", format!("{node:?} is not in the log")))?;
        Ok(subtree(&self.tile(tile, cx).await?[range]))
    }

    /// The hashes of a tile, which is kept.
    async fn tile(&self, tile: Tile, cx: &CallContext) -> Result<Arc<Vec<Digest>>> {
        let kept = || self.tiles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hashes) = kept().get(&tile) {
            return Ok(Arc::clone(hashes));
        }
        let (bytes, read) = self.file(tile, cx).await?;
        let mut hashes = read_hashes(&bytes, read.width).map_err(|error| error.with("file", read.path()))?;
        hashes.truncate(tile.width as usize);
        let hashes = Arc::new(hashes);
        kept().insert(tile, Arc::clone(&hashes));
        Ok(hashes)
    }

    /// The bytes of a tile, and which it is: a partial one may have been replaced by
    /// the full one since.
    async fn file(&self, tile: Tile, cx: &CallContext) -> Result<(Vec<u8>, Tile)> {
        for tile in [tile, tile.full()] {
            if let Some(bytes) = self.files.read(&tile.path(), tile.max_bytes(), cx).await? {
                return Ok((bytes, tile));
            }
        }
        Err(invalid("a file of the log is missing").with("file", tile.path()).with("log", &self.head.origin))
    }
}

/// Reads the bytes of every entry.
///
/// # Errors
/// [`ErrorKind::DataInvalid`] with the number of the first that is malformed.
pub(super) fn parse(entries: &[Vec<u8>]) -> Result<Vec<Entry>> {
    let numbered = entries.iter().enumerate();
    numbered.map(|(index, bytes)| Entry::parse(bytes).map_err(|error| error.with("number", index))).collect()
}

/// The hash of the tree of `leaves`.
pub(super) fn root(leaves: &[Digest]) -> Digest {
    let all = Leaves { start: 0, end: leaves.len() as u64 };
    let node = |node: Node| subtree(&leaves[(node.index << node.level) as usize..][..1 << node.level]);
    Leaves::hash(&all.nodes().into_iter().map(node).collect::<Vec<_>>())
}

/// The hash of a complete subtree of `hashes`, a power of two of them.
pub(super) fn subtree(hashes: &[Digest]) -> Digest {
    let mut hashes = hashes.to_vec();
    while hashes.len() > 1 {
        hashes = hashes.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    hashes.first().copied().unwrap_or_else(empty_root)
}
