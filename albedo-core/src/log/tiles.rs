//! Where a log's files are, and how entries lie in them (C2SP tlog-tiles).

use super::merkle::Node;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};

/// The newest signed head.
pub(super) const CHECKPOINT: &str = "checkpoint";

/// Levels of the tree per tile.
pub(super) const HEIGHT: u32 = 8;

/// Hashes or entries of a full tile.
pub(super) const WIDTH: u64 = 1 << HEIGHT;

/// The longest entry, whose length has 16 bits in its bundle.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;

/// A file of a log beside its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tile {
    pub(super) kind: Kind,
    /// Its place among the tiles of its kind.
    pub(super) index: u64,
    /// Its hashes or entries, 1 to [`WIDTH`].
    pub(super) width: u64,
}

/// What a tile holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// The entries themselves.
    Entries,
    /// Hashes of subtrees of 256^level entries.
    Hashes(u32),
}

impl Tile {
    /// The tile `index` of `kind` in a log of `size` entries; `None` if there is none.
    pub(super) fn of(kind: Kind, index: u64, size: u64) -> Option<Self> {
        let level = match kind {
            Kind::Entries => 0,
            Kind::Hashes(level) => level,
        };
        let items = size.checked_shr(level * HEIGHT).unwrap_or(0);
        let width = items.saturating_sub(index * WIDTH).min(WIDTH);
        (width > 0).then_some(Self { kind, index, width })
    }

    /// The same when it is full.
    pub(super) fn full(self) -> Self {
        Self { width: WIDTH, ..self }
    }

    pub(super) fn is_full(self) -> bool {
        self.width == WIDTH
    }

    /// Its path under the log's address.
    pub(super) fn path(self) -> String {
        let full = self.full_path();
        if self.is_full() { full } else { format!("{full}.p/{}", self.width) }
    }

    /// The folder of its partial versions.
    pub(super) fn partial_folder(self) -> String {
        format!("{}.p", self.full_path())
    }

    fn full_path(self) -> String {
        let kind = match self.kind {
            Kind::Entries => "entries".to_owned(),
            Kind::Hashes(level) => level.to_string(),
        };
        let (mut rest, mut number) = (self.index / 1000, format!("{:03}", self.index % 1000));
        while rest > 0 {
            number = format!("x{:03}/{number}", rest % 1000);
            rest /= 1000;
        }
        format!("tile/{kind}/{number}")
    }

    /// Most bytes that it may have.
    pub(super) fn max_bytes(self) -> u64 {
        match self.kind {
            Kind::Entries => self.width * (2 + MAX_ENTRY_BYTES as u64),
            Kind::Hashes(_) => self.width * 32,
        }
    }
}

/// The files that a log of `new` entries has beside its checkpoint and one of `old`
/// entries has not: what is to be copied, before the checkpoint, to where the older
/// state of the log is.
///
/// ```
/// assert_eq!(albedo_core::log::files_since(0, 2), ["tile/entries/000.p/2", "tile/0/000.p/2"]);
/// assert!(albedo_core::log::files_since(2, 2).is_empty());
/// ```
pub fn files_since(old: u64, new: u64) -> Vec<String> {
    let kinds = std::iter::once(Kind::Entries).chain((0..u64::BITS / HEIGHT).map(Kind::Hashes));
    let mut files = Vec::new();
    for kind in kinds {
        let level = if let Kind::Hashes(level) = kind { level } else { 0 };
        for index in old.checked_shr(level * HEIGHT).unwrap_or(0) / WIDTH.. {
            match Tile::of(kind, index, new) {
                Some(tile) if Tile::of(kind, index, old) != Some(tile) => files.push(tile.path()),
                Some(_) => {}
                None => break,
            }
        }
    }
    files
}

/// The tile that has what is needed for a node, and the hashes in it under the
/// node.
pub(super) fn tile_of(node: Node, size: u64) -> Option<(Tile, std::ops::Range<usize>)> {
    let (level, height) = (node.level / HEIGHT, node.level % HEIGHT);
    let first = node.index << height;
    let tile = Tile::of(Kind::Hashes(level), first / WIDTH, size)?;
    let start = (first % WIDTH) as usize;
    let range = start..start + (1 << height);
    (range.end as u64 <= tile.width).then_some((tile, range))
}

/// The hashes of a tile of `width`.
pub(super) fn read_hashes(bytes: &[u8], width: u64) -> Result<Vec<Digest>> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || hashes.len() as u64 != width {
        return Err(invalid(format!("a tile of {width} hashes has {} bytes", bytes.len())));
    }
    Ok(hashes.iter().copied().map(Digest::from).collect())
}

pub(super) fn write_hashes(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| *hash.as_bytes()).collect()
}

/// The entries of a bundle of `width`.
pub(super) fn read_entries(mut bytes: &[u8], width: u64) -> Result<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u16::from_be_bytes(*length) as usize;
        let Some((entry, rest)) = rest.split_at_checked(length) else {
            return Err(invalid("an entry ends behind its bundle"));
        };
        entries.push(entry.to_vec());
        bytes = rest;
    }
    if !bytes.is_empty() || entries.len() as u64 != width {
        return Err(invalid(format!("a bundle of {width} entries has {}", entries.len())));
    }
    Ok(entries)
}

/// A bundle of entries, each at most [`MAX_ENTRY_BYTES`] long.
pub(super) fn write_entries(entries: &[Vec<u8>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [&(entry.len() as u16).to_be_bytes(), &entry[..]].concat()).collect()
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, "read the log", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_where_the_specification_says() {
        // The specification's examples: tile 1234067, and a tree of 70,000 entries.
        let tile = |kind, index, width| Tile { kind, index, width }.path();
        assert_eq!(tile(Kind::Hashes(0), 1_234_067, 256), "tile/0/x001/x234/067");
        assert_eq!(tile(Kind::Entries, 0, 7), "tile/entries/000.p/7");
        let of = |level, index| Tile::of(Kind::Hashes(level), index, 70_000).map(|tile| tile.width);
        assert_eq!([of(0, 272), of(0, 273), of(0, 274)], [Some(256), Some(112), None]);
        assert_eq!([of(1, 0), of(1, 1), of(2, 0), of(3, 0)], [Some(256), Some(17), Some(1), None]);
        assert_eq!(Tile::of(Kind::Hashes(1), 0, 256).map(|tile| tile.width), Some(1));
        assert_eq!(Tile::of(Kind::Hashes(8), 0, u64::MAX), None);
    }

    #[test]
    fn a_node_is_found_in_the_tile_of_its_level() {
        let (tile, range) = tile_of(Node { level: 10, index: 3 }, 70_000).expect("is there");
        assert_eq!((tile.path().as_str(), range), ("tile/1/000", 12..16));
        assert_eq!(tile_of(Node { level: 16, index: 1 }, 70_000), None);
        let (tile, range) = tile_of(Node { level: 0, index: 69_999 }, 70_000).expect("is there");
        assert_eq!((tile.path().as_str(), range), ("tile/0/273.p/112", 111..112));
    }

    #[test]
    fn what_a_log_has_gained_is_what_the_other_lacks() {
        let all = |size| files_since(0, size);
        for (old, new) in [(0, 1), (1, 2), (255, 256), (256, 257), (300, 70_000), (65_535, 65_537), (7, 7)] {
            let before = all(old);
            let gained: Vec<_> = all(new).into_iter().filter(|file| !before.contains(file)).collect();
            assert_eq!(files_since(old, new), gained, "{old} to {new}");
        }
        assert_eq!(all(257).len(), 5, "two bundles, two tiles of hashes, one above: {:?}", all(257));
    }

    #[test]
    fn bundles_and_tiles_read_what_they_write_and_nothing_else() {
        let entries = vec![b"one".to_vec(), vec![], vec![7; MAX_ENTRY_BYTES]];
        let bytes = write_entries(&entries);
        assert_eq!(&bytes[..5], b"\0\x03one");
        assert_eq!(read_entries(&bytes, 3).expect("reads"), entries);
        assert!(read_entries(&bytes, 2).is_err());
        for cut in [1, 4, bytes.len() - 1] {
            assert!(read_entries(&bytes[..cut], 3).is_err(), "{cut}");
        }
        let hashes = [Digest::of("a"), Digest::of("b")];
        assert_eq!(read_hashes(&write_hashes(&hashes), 2).expect("reads"), hashes);
        assert!(read_hashes(&[0; 63], 2).is_err() && read_hashes(&[0; 96], 2).is_err());
    }
}
