//! Merkle trees of RFC 6962: hashes, and proofs from a list of entries that only
//! grows. Pure functions; where the hashes come from is the caller's.

use crate::digest::{Digest, Hasher};
use crate::error::{Error, ErrorKind, Result};

/// The hash of an entry: SHA-256 of 0x00 and its bytes (RFC 6962, section 2.1).
pub fn leaf_hash(entry: &[u8]) -> Digest {
    hash(&[&[0], entry])
}

/// The hash of two subtrees: SHA-256 of 0x01 and their hashes.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    hash(&[&[1], left.as_bytes(), right.as_bytes()])
}

/// The hash of a tree without entries: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::of([])
}

fn hash(parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::default();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// A subtree whose leaves are all there: `1 << level` of them, from the leaf
/// `index << level` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// The height: 0 for a leaf.
    pub level: u32,
    /// The place among the nodes of its level.
    pub index: u64,
}

/// Consecutive leaves whose hash a root or a proof needs. `start` is a multiple
/// of the largest power of two that is below or equal to their number, as it is
/// in every subtree of RFC 6962.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaves {
    /// The first leaf.
    pub start: u64,
    /// The leaf after the last.
    pub end: u64,
}

impl Leaves {
    /// The complete subtrees that the leaves fall into, the largest first.
    pub fn nodes(self) -> Vec<Node> {
        let (mut start, mut nodes) = (self.start, Vec::new());
        while start < self.end {
            let level = (self.end - start).ilog2();
            nodes.push(Node { level, index: start >> level });
            start += 1 << level;
        }
        nodes
    }

    /// The hash of the leaves from the hashes of [`nodes`](Self::nodes).
    pub fn hash(hashes: &[Digest]) -> Digest {
        let folded = hashes.iter().copied().rev().reduce(|right, left| node_hash(&left, &right));
        folded.unwrap_or_else(empty_root)
    }
}

/// The leaves whose hashes prove that entry `index` is in a tree of `size`
/// entries, from the leaf's sibling up (RFC 6962, section 2.1.1). `index` is
/// below `size`.
pub fn inclusion_path(index: u64, size: u64) -> Vec<Leaves> {
    debug_assert!(index < size);
    let (mut tree, mut path) = (Leaves { start: 0, end: size }, Vec::new());
    while tree.end - tree.start > 1 {
        let (left, right) = halves(tree);
        let (inside, sibling) = if index < left.end { (left, right) } else { (right, left) };
        path.push(sibling);
        tree = inside;
    }
    path.reverse();
    path
}

/// The leaves whose hashes prove that a tree of `size` entries begins with the
/// `old` entries of an earlier one (RFC 6962, section 2.1.2). `old` is from 1 to
/// `size`.
pub fn consistency_path(old: u64, size: u64) -> Vec<Leaves> {
    debug_assert!(0 < old && old <= size);
    let (mut tree, mut path) = (Leaves { start: 0, end: size }, Vec::new());
    while tree.end != old {
        let (left, right) = halves(tree);
        let (inside, other) = if old <= left.end { (left, right) } else { (right, left) };
        path.push(other);
        tree = inside;
    }
    // A subtree that is the whole old tree is known to the reader of the proof.
    if tree.start > 0 {
        path.push(tree);
    }
    path.reverse();
    path
}

/// A tree of more than one leaf, split where RFC 6962 splits it.
fn halves(tree: Leaves) -> (Leaves, Leaves) {
    let middle = tree.start + ((tree.end - tree.start).next_power_of_two() >> 1);
    (Leaves { end: middle, ..tree }, Leaves { start: middle, ..tree })
}

/// Verifies that `leaf` is the hash of entry `index` of the tree of `size` entries
/// with hash `root` (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`ErrorKind::DataInvalid`] if the proof does not prove it.
pub fn verify_inclusion(leaf: Digest, index: u64, size: u64, root: Digest, proof: &[Digest]) -> Result<()> {
    let wrong =
        || Error::new(ErrorKind::DataInvalid, "verify an inclusion proof", "it proves something else");
    if index >= size {
        return Err(wrong().with("index", index).with("size", size));
    }
    let (mut place, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if last == 0 {
            return Err(wrong());
        }
        if place & 1 == 1 || place == last {
            hash = node_hash(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == root { Ok(()) } else { Err(wrong()) }
}

/// Verifies that the tree of `size` entries with hash `root` begins with the
/// entries of the tree of `old_size` entries with hash `old_root` (RFC 9162,
/// section 2.1.4.2).
///
/// # Errors
/// [`ErrorKind::DataInvalid`] if the proof does not prove it.
pub fn verify_consistency(
    (old_size, old_root): (u64, Digest),
    (size, root): (u64, Digest),
    proof: &[Digest],
) -> Result<()> {
    let wrong = || {
        Error::new(ErrorKind::DataInvalid, "verify a consistency proof", "the trees are not shown to be one")
            .with("old size", old_size)
            .with("size", size)
    };
    let holds = |condition: bool| if condition { Ok(()) } else { Err(wrong()) };
    if old_size > size {
        return Err(wrong());
    }
    if old_size == size || old_size == 0 {
        // The empty tree is the beginning of every tree.
        let old = if old_size == 0 { old_root == empty_root() } else { old_root == root };
        return holds(old && proof.is_empty());
    }
    // A proof leaves out the first hash if the old tree is complete.
    let mut hashes = proof.iter();
    let first = if old_size.is_power_of_two() { old_root } else { *hashes.next().ok_or_else(wrong)? };
    let (mut place, mut last) = (old_size - 1, size - 1);
    while place & 1 == 1 {
        place >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut hash) = (first, first);
    for sibling in hashes {
        if last == 0 {
            return Err(wrong());
        }
        if place & 1 == 1 || place == last {
            old_hash = node_hash(sibling, &old_hash);
            hash = node_hash(sibling, &hash);
            while place & 1 == 0 && place != 0 {
                place >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        place >>= 1;
        last >>= 1;
    }
    holds(last == 0 && old_hash == old_root && hash == root)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MTH as RFC 6962 writes it, over all leaves.
    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let middle = leaves.len().next_power_of_two() / 2;
                node_hash(&naive(&leaves[..middle]), &naive(&leaves[middle..]))
            }
        }
    }

    fn hashes(path: &[Leaves], leaves: &[Digest]) -> Vec<Digest> {
        let of = |leaves_of: &Leaves| {
            let node = |node: Node| naive(&leaves[(node.index << node.level) as usize..][..1 << node.level]);
            Leaves::hash(&leaves_of.nodes().into_iter().map(node).collect::<Vec<_>>())
        };
        path.iter().map(of).collect()
    }

    fn leaves(size: u64) -> Vec<Digest> {
        (0..size).map(|number| leaf_hash(&number.to_le_bytes())).collect()
    }

    #[test]
    fn roots_are_those_of_certificate_transparency() {
        // The test vectors of Certificate Transparency's reference implementation:
        // entries, and the roots of the trees of the first 1 to 8 of them.
        let entries: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let leaves = entries.map(leaf_hash);
        for (size, root) in (1..).zip(roots) {
            let all = Leaves { start: 0, end: size };
            assert_eq!(hashes(&[all], &leaves)[0].to_string(), root, "{size} entries");
        }
        assert_eq!(Leaves::hash(&[]), empty_root());
    }

    #[test]
    fn every_small_tree_proves_every_entry_and_every_beginning() {
        let all = leaves(40);
        for size in 1..=all.len() as u64 {
            let tree = &all[..size as usize];
            let root = naive(tree);
            for index in 0..size {
                let proof = hashes(&inclusion_path(index, size), tree);
                verify_inclusion(tree[index as usize], index, size, root, &proof).expect("is in the tree");
                let elsewhere = (index + 1) % size;
                if elsewhere != index {
                    let moved = verify_inclusion(tree[index as usize], elsewhere, size, root, &proof);
                    assert!(moved.is_err(), "{index} of {size}");
                }
            }
            for old in 1..=size {
                let proof = hashes(&consistency_path(old, size), tree);
                let old_root = naive(&tree[..old as usize]);
                verify_consistency((old, old_root), (size, root), &proof).expect("is its beginning");
                let other = verify_consistency((old, empty_root()), (size, root), &proof);
                assert!(other.is_err(), "{old} of {size}");
            }
        }
        verify_consistency((0, empty_root()), (3, naive(&all[..3])), &[]).expect("begins with nothing");
        assert!(verify_consistency((0, naive(&all[..1])), (3, naive(&all[..3])), &[]).is_err());
    }

    proptest! {
        #[test]
        fn a_proof_that_is_altered_proves_nothing(
            size in 2_u64..300,
            place in any::<prop::sample::Index>(),
            old in any::<prop::sample::Index>(),
            hash in any::<prop::sample::Index>(),
            bit in 0_usize..256,
            cut in any::<bool>(),
        ) {
            let all = leaves(size);
            let (root, index, old) = (naive(&all), place.index(size as usize) as u64, old.index(size as usize) as u64 + 1);
            let alter = |proof: &[Digest]| {
                let mut proof = proof.to_vec();
                if cut {
                    proof.pop();
                } else {
                    let at = hash.index(proof.len());
                    let mut bytes = *proof[at].as_bytes();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    proof[at] = Digest::from(bytes);
                }
                proof
            };
            let proof = hashes(&inclusion_path(index, size), &all);
            let leaf = all[index as usize];
            prop_assert!(verify_inclusion(leaf, index, size, root, &proof).is_ok());
            prop_assert!(verify_inclusion(leaf, index, size, root, &alter(&proof)).is_err());
            prop_assert!(verify_inclusion(leaf, index, size, root, &[proof, vec![root]].concat()).is_err());

            let proof = hashes(&consistency_path(old, size), &all);
            let before = (old, naive(&all[..old as usize]));
            prop_assert!(verify_consistency(before, (size, root), &proof).is_ok());
            if !proof.is_empty() {
                prop_assert!(verify_consistency(before, (size, root), &alter(&proof)).is_err());
            }
            prop_assert!(verify_consistency(before, (size, root), &[proof, vec![root]].concat()).is_err());
        }
    }
}
