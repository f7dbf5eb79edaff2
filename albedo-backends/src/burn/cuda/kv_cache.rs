//! Which pages hold the keys and values of which tokens.

use std::collections::{BTreeMap, HashMap};

use albedo_core::Digest;

use super::kernels::attention::PAGE;

/// The pages of the KV cache, and which of them hold the start of some prompt.
///
/// A full page of a prompt is known by a digest of its tokens and all before
/// them. It outlives its sequences, until its place is needed: the page that
/// was unused longest goes first.
#[derive(Debug)]
pub(super) struct KvCache {
    free: Vec<u32>,
    /// Sequences that use each page.
    users: Vec<u32>,
    /// The digest of what each page holds, if it is known.
    names: Vec<Option<Digest>>,
    known: HashMap<Digest, u32>,
    /// Known pages without a user, by when they were last used.
    idle: BTreeMap<u64, u32>,
    since: Vec<u64>,
    clock: u64,
}

impl KvCache {
    /// `count` pages, numbered from 1: page 0 is nobody's, for padding.
    pub(super) fn new(count: usize) -> Self {
        Self {
            free: (1..=count as u32).rev().collect(),
            users: vec![0; count + 1],
            names: vec![None; count + 1],
            known: HashMap::new(),
            idle: BTreeMap::new(),
            since: vec![0; count + 1],
            clock: 0,
        }
    }

    /// Pages in all.
    pub(super) fn count(&self) -> usize {
        self.users.len() - 1
    }

    /// Pages that a new sequence could take.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// The digests of the full pages of `prompt`, each of all up to its end.
    /// The page with the last token is left out: it has to be computed, to know
    /// what follows.
    pub(super) fn names(prompt: &[u32]) -> Vec<Digest> {
        let mut last = Digest::of([]);
        let full = prompt.len().saturating_sub(1) / PAGE;
        let name = |block: &[u32]| {
            let mut bytes = last.as_bytes().to_vec();
            bytes.extend(block.iter().flat_map(|id| id.to_le_bytes()));
            last = Digest::of(bytes);
            last
        };
        prompt.chunks_exact(PAGE).take(full).map(name).collect()
    }

    /// Takes `count` pages for a sequence whose prompt has `names`: first those
    /// that are known, then empty ones. Returns them and how many are known;
    /// `None` if there are not enough.
    pub(super) fn take(&mut self, names: &[Digest], count: usize) -> Option<(Vec<u32>, usize)> {
        let mut pages: Vec<u32> = names.iter().map_while(|name| self.known.get(name).copied()).collect();
        pages.truncate(count);
        let known = pages.len();
        for &page in &pages {
            self.retain(page);
        }
        if self.available() < count - known {
            self.release(&pages);
            return None;
        }
        while pages.len() < count {
            let page = self.free.pop().or_else(|| self.forget_oldest())?;
            self.users[page as usize] = 1;
            pages.push(page);
        }
        Some((pages, known))
    }

    /// Says that the pages now hold what `names` say. A digest that another
    /// page has already stays with it.
    pub(super) fn learn(&mut self, pages: &[u32], names: &[Digest]) {
        for (&page, &name) in pages.iter().zip(names) {
            if self.names[page as usize].is_none() && !self.known.contains_key(&name) {
                self.known.insert(name, page);
                self.names[page as usize] = Some(name);
            }
        }
    }

    /// Gives a sequence's pages back.
    pub(super) fn release(&mut self, pages: &[u32]) {
        // The end of a prompt is forgotten before its start.
        for &page in pages.iter().rev() {
            let at = page as usize;
            self.users[at] -= 1;
            if self.users[at] > 0 {
                continue;
            }
            if self.names[at].is_some() {
                self.clock += 1;
                self.since[at] = self.clock;
                self.idle.insert(self.clock, page);
            } else {
                self.free.push(page);
            }
        }
    }

    fn retain(&mut self, page: u32) {
        if self.users[page as usize] == 0 {
            self.idle.remove(&self.since[page as usize]);
        }
        self.users[page as usize] += 1;
    }

    fn forget_oldest(&mut self) -> Option<u32> {
        let (_, page) = self.idle.pop_first()?;
        if let Some(name) = self.names[page as usize].take() {
            self.known.remove(&name);
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prompt(start: u32, len: usize) -> Vec<u32> {
        (start..start + len as u32).collect()
    }

    #[test]
    fn a_prompt_finds_what_an_earlier_one_left() {
        let mut pages = KvCache::new(8);
        let long = prompt(0, 200);
        let names = KvCache::names(&long);
        assert_eq!(names.len(), 3);
        let (first, known) = pages.take(&names, 5).unwrap();
        assert_eq!((first.len(), known), (5, 0));
        pages.learn(&first, &names);
        // Another sequence with the same start, while the first runs.
        let mut other = prompt(0, 130);
        other.extend([9999; 30]);
        let (second, known) = pages.take(&KvCache::names(&other), 3).unwrap();
        assert_eq!((known, &second[..2]), (2, &first[..2]));
        pages.release(&first);
        pages.release(&second);
        assert_eq!(pages.available(), 8);
        assert_eq!(pages.take(&names, 4).unwrap().1, 3);
    }

    #[test]
    fn the_last_token_is_always_computed() {
        assert_eq!(KvCache::names(&prompt(0, 64)).len(), 0);
        assert_eq!(KvCache::names(&prompt(0, 65)).len(), 1);
        assert_eq!(KvCache::names(&[]).len(), 0);
    }

    #[test]
    fn a_name_depends_on_everything_before() {
        let (mut a, mut b) = (prompt(0, 129), prompt(0, 129));
        assert_eq!(KvCache::names(&a), KvCache::names(&b));
        b[3] = 77;
        a.truncate(128);
        assert_ne!(KvCache::names(&a)[0], KvCache::names(&b)[0]);
        assert_ne!(KvCache::names(&prompt(0, 129))[1], KvCache::names(&b)[1]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut pages = KvCache::new(4);
        let names = KvCache::names(&prompt(0, 130));
        let (held, _) = pages.take(&names, 3).unwrap();
        pages.learn(&held, &names);
        assert!(pages.take(&names, 5).is_none());
        assert_eq!(pages.available(), 1);
        pages.release(&held);
        assert_eq!(pages.available(), 4);
    }

    proptest! {
        /// However sequences come and go, a page has the users it should have
        /// and none is lost.
        #[test]
        fn no_page_is_lost_or_shared_by_accident(
            steps in proptest::collection::vec((0_u32..4, 1_usize..400, any::<bool>()), 1..60),
        ) {
            let mut pages = KvCache::new(12);
            let mut running: Vec<(Vec<u32>, usize)> = Vec::new();
            for (start, len, stop) in steps {
                if stop && !running.is_empty() {
                    let (held, _) = running.remove(len % running.len());
                    pages.release(&held);
                    continue;
                }
                let ids = prompt(start * 1000, len);
                let names = KvCache::names(&ids);
                let count = len / PAGE + 1;
                if let Some((held, known)) = pages.take(&names, count) {
                    prop_assert_eq!(held.len(), count);
                    prop_assert!(known <= names.len());
                    pages.learn(&held, &names);
                    // Pages that are not known belong to this sequence alone.
                    for page in &held[known..] {
                        prop_assert!(running.iter().all(|(other, _)| !other.contains(page)));
                    }
                    running.push((held, known));
                }
                let used: std::collections::BTreeSet<u32> =
                    running.iter().flat_map(|(held, _)| held.iter().copied()).collect();
                prop_assert_eq!(pages.available() + used.len(), 12);
                prop_assert!(!used.contains(&0));
            }
            for (held, _) in running {
                pages.release(&held);
            }
            prop_assert_eq!(pages.available(), 12);
        }
    }
}
