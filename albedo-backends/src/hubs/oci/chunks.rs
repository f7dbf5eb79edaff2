//! Cutting files into chunks where their content says, and gathering chunks in packs.
//!
//! The cuts are those of hippius-hub 0.7.2, so that a chunk that either client has
//! pushed is found by the other. A pack ends where its content says, too: an edit changes
//! the packs that it lies in, and those after it stay what they were.

use std::collections::BTreeMap;
use std::ops::Range;

use albedo_core::Digest;
use albedo_core::digest::Hasher;
use fastcdc::v2020::FastCDC;

/// How large chunks and packs are, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Bytes of a chunk: the minimum, except for the last chunk of a file; the average; the maximum.
    pub(super) least_chunk: usize,
    pub(super) usual_chunk: usize,
    pub(super) most_chunk: usize,
    /// A pack may end from here on,
    pub(super) least_pack: u64,
    /// at one chunk in so many,
    pub(super) one_in: u8,
    /// and ends from here on.
    pub(super) most_pack: u64,
}

impl Default for Sizes {
    /// Chunks as hippius-hub 0.7.2 cuts them; packs of 64 MiB on average: 32 MiB, and
    /// then eight chunks.
    fn default() -> Self {
        Self {
            least_chunk: 1 << 20,
            usual_chunk: 4 << 20,
            most_chunk: 16 << 20,
            least_pack: 32 << 20,
            one_in: 8,
            most_pack: 128 << 20,
        }
    }
}

/// Where a chunk's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: PackId,
    pub(super) offset: u64,
}

/// The pack that a chunk is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PackId {
    /// One of an earlier push.
    Earlier { digest: Digest, size: u64 },
    /// One of this push: its place among [`Packer::packs`].
    New(usize),
}

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) sha256: Digest,
    pub(super) size: u64,
    pub(super) place: Place,
}

/// A pack of this push: ranges of one file, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    pub(super) file: String,
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// What a file is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunked {
    pub(super) sha256: Digest,
    pub(super) size: u64,
    pub(super) chunks: Vec<Placed>,
}

/// Gathers the chunks of files. A chunk that was seen before, in any file, or that an
/// earlier push has, is not gathered again.
#[derive(Debug)]
pub(super) struct Packer {
    sizes: Sizes,
    known: BTreeMap<Digest, Place>,
    packs: Vec<Pack>,
}

impl Packer {
    /// One for a push after another one, which has the chunks of `earlier`.
    pub(super) fn new(sizes: Sizes, earlier: BTreeMap<Digest, Place>) -> Self {
        Self { sizes, known: earlier, packs: Vec::new() }
    }

    /// Begins with the file `name`.
    pub(super) fn file(self, name: impl Into<String>) -> FilePacker {
        FilePacker {
            packer: self,
            name: name.into(),
            whole: Hasher::default(),
            rest: Vec::new(),
            at: 0,
            chunks: Vec::new(),
            open: Open::default(),
        }
    }

    /// The packs so far.
    pub(super) fn packs(&self) -> &[Pack] {
        &self.packs
    }
}

/// A file that is being cut: its bytes go in from first to last, in pieces of any size.
#[derive(Debug)]
pub(super) struct FilePacker {
    packer: Packer,
    name: String,
    whole: Hasher,
    /// Bytes that are not cut yet: fewer than the largest chunk has, and their place.
    rest: Vec<u8>,
    at: u64,
    chunks: Vec<Placed>,
    open: Open,
}

/// The pack that chunks are added to.
#[derive(Debug, Default)]
struct Open {
    ranges: Vec<Range<u64>>,
    hasher: Hasher,
    size: u64,
}

impl FilePacker {
    /// Adds bytes of the file.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        self.rest.extend_from_slice(bytes);
        // What follows a chunk of the largest size has no say in where it ends.
        self.cut(self.packer.sizes.most_chunk);
    }

    /// The file has ended.
    pub(super) fn finish(mut self) -> (Packer, Chunked) {
        self.cut(1);
        self.close();
        (self.packer, Chunked { sha256: self.whole.finish(), size: self.at, chunks: self.chunks })
    }

    /// Cuts chunks off for as long as `least` bytes are left.
    fn cut(&mut self, least: usize) {
        let Sizes { least_chunk, usual_chunk, most_chunk, .. } = self.packer.sizes;
        let rest = std::mem::take(&mut self.rest);
        let mut from = 0;
        while rest.len() - from >= least {
            let cutter = FastCDC::new(&rest[from..], least_chunk, usual_chunk, most_chunk);
            let (_, size) = cutter.cut(0, rest.len() - from);
            self.add(&rest[from..from + size]);
            from += size;
        }
        self.rest = rest;
        self.rest.drain(..from);
    }

    fn add(&mut self, chunk: &[u8]) {
        let (sha256, size) = (Digest::of(chunk), chunk.len() as u64);
        let range = self.at..self.at + size;
        self.at = range.end;
        let next = Place { pack: PackId::New(self.packer.packs.len()), offset: self.open.size };
        let place = *self.packer.known.entry(sha256).or_insert(next);
        self.chunks.push(Placed { sha256, size, place });
        if place != next {
            return;
        }
        match self.open.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.open.ranges.push(range),
        }
        self.open.hasher.update(chunk);
        self.open.size += size;
        let Sizes { least_pack, one_in, most_pack, .. } = self.packer.sizes;
        let ends = self.open.size >= least_pack && sha256.as_bytes()[0] % one_in == 0;
        if ends || self.open.size >= most_pack {
            self.close();
        }
    }

    fn close(&mut self) {
        let Open { ranges, hasher, size } = std::mem::take(&mut self.open);
        if size > 0 {
            let pack = Pack { file: self.name.clone(), ranges, digest: hasher.finish(), size };
            self.packer.packs.push(pack);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::noise;
    use super::*;

    /// Small enough that a file of some kilobytes has many.
    const SMALL: Sizes = Sizes {
        least_chunk: 64,
        usual_chunk: 256,
        most_chunk: 1024,
        least_pack: 2 << 10,
        one_in: 8,
        most_pack: 8 << 10,
    };

    fn cut(packer: Packer, name: &str, bytes: &[u8], piece: usize) -> (Packer, Chunked) {
        let mut file = packer.file(name);
        bytes.chunks(piece.max(1)).for_each(|piece| file.update(piece));
        file.finish()
    }

    /// The bytes of a pack, read from the files again.
    fn read<'a>(pack: &Pack, files: &BTreeMap<&str, &'a [u8]>) -> Vec<u8> {
        let file: &'a [u8] = files[pack.file.as_str()];
        pack.ranges
            .iter()
            .flat_map(|range| &file[range.start as usize..range.end as usize])
            .copied()
            .collect()
    }

    /// Puts a file together from packs, as a reader does.
    fn assembled(file: &Chunked, packs: &[Vec<u8>]) -> Vec<u8> {
        let chunk = |chunk: &Placed| {
            let PackId::New(pack) = chunk.place.pack else { panic!("no earlier pack") };
            let at = chunk.place.offset as usize;
            let bytes = &packs[pack][at..at + chunk.size as usize];
            assert_eq!(Digest::of(bytes), chunk.sha256);
            bytes.to_vec()
        };
        file.chunks.iter().flat_map(chunk).collect()
    }

    /// Files with parts in common.
    fn files() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let part = (any::<u8>(), 0_usize..3000).prop_map(|(seed, size)| noise(size, seed % 8));
        let file = prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat());
        prop::collection::vec(file, 1..4)
    }

    proptest! {
        #[test]
        fn packs_hold_every_file_and_no_chunk_twice(files in files(), piece in 1_usize..5000) {
            let names: Vec<_> = (0..files.len()).map(|file| format!("file-{file}")).collect();
            let by_name: BTreeMap<_, _> =
                names.iter().map(String::as_str).zip(files.iter().map(Vec::as_slice)).collect();
            let mut packer = Packer::new(SMALL, BTreeMap::new());
            let mut whole = Packer::new(SMALL, BTreeMap::new());
            let mut cuts = Vec::new();
            for (name, bytes) in &by_name {
                let one;
                (packer, one) = cut(packer, name, bytes, piece);
                let other;
                (whole, other) = cut(whole, name, bytes, usize::MAX);
                prop_assert_eq!(&one, &other, "wherever the bytes were split");
                prop_assert_eq!((one.sha256, one.size), (Digest::of(bytes), bytes.len() as u64));
                cuts.push(one);
            }
            let packs: Vec<_> = packer.packs().iter().map(|pack| read(pack, &by_name)).collect();
            for (pack, bytes) in packer.packs().iter().zip(&packs) {
                prop_assert_eq!((pack.digest, pack.size), (Digest::of(bytes), bytes.len() as u64));
                prop_assert!(pack.size > 0 && pack.size < SMALL.most_pack + SMALL.most_chunk as u64);
            }
            let mut distinct = BTreeMap::new();
            for (file, bytes) in cuts.iter().zip(by_name.values()) {
                prop_assert_eq!(&assembled(file, &packs), bytes);
                for (index, chunk) in file.chunks.iter().enumerate() {
                    let last = index + 1 == file.chunks.len();
                    prop_assert!(last || chunk.size >= SMALL.least_chunk as u64);
                    prop_assert!(chunk.size <= SMALL.most_chunk as u64);
                    distinct.insert(chunk.sha256, chunk.size);
                }
            }
            let stored: u64 = packer.packs().iter().map(|pack| pack.size).sum();
            prop_assert_eq!(stored, distinct.values().sum::<u64>());
        }

        #[test]
        fn what_an_earlier_push_has_is_not_gathered(files in files()) {
            let bytes = files.concat();
            let (packer, first) = cut(Packer::new(SMALL, BTreeMap::new()), "a", &bytes, 4096);
            let digests: Vec<_> = packer.packs().iter().map(|pack| (pack.digest, pack.size)).collect();
            let earlier = first.chunks.iter().map(|chunk| {
                let PackId::New(pack) = chunk.place.pack else { panic!("no earlier pack") };
                let (digest, size) = digests[pack];
                (chunk.sha256, Place { pack: PackId::Earlier { digest, size }, ..chunk.place })
            });
            let (packer, second) = cut(Packer::new(SMALL, earlier.collect()), "b", &bytes, 4096);
            prop_assert!(packer.packs().is_empty());
            prop_assert_eq!(first.sha256, second.sha256);
        }
    }

    #[test]
    fn an_edit_changes_the_packs_it_lies_in() {
        let bytes = noise(400_000, 1).to_vec();
        let packs = |bytes: &[u8]| -> Vec<Digest> {
            let (packer, _) = cut(Packer::new(SMALL, BTreeMap::new()), "a", bytes, 4096);
            packer.packs().iter().map(|pack| pack.digest).collect()
        };
        let before = packs(&bytes);
        assert!((50..200).contains(&before.len()), "of about 4 kB: {}", before.len());
        for at in [0, 1000, 123_456, 399_999] {
            let (mut other, mut longer) = (bytes.clone(), bytes.clone());
            other[at] ^= 1;
            longer.insert(at, 7);
            for edited in [other, longer] {
                let after = packs(&edited);
                let new = after.iter().filter(|pack| !before.contains(pack)).count();
                assert!((1..=4).contains(&new), "{new} of {} packs changed at {at}", after.len());
            }
        }
    }

    #[test]
    fn chunks_are_those_of_hippius_hub() {
        // Source: `hippius_core.chunk_and_hash_native` of hippius-hub 0.7.2, for the same bytes.
        let (_, file) =
            cut(Packer::new(Sizes::default(), BTreeMap::new()), "a", &noise(40_000_000, 1), 1 << 24);
        let sizes: Vec<_> = file.chunks.iter().map(|chunk| chunk.size).collect();
        let expected = [
            7_036_732, 6_019_562, 1_452_009, 1_151_381, 4_327_110, 1_794_161, 5_075_094, 1_445_585,
            7_480_255, 4_218_111,
        ];
        assert_eq!(sizes, expected);
    }
}
