//! Stop strings: a reply ends before the first of them, wherever tokens begin and end.

use std::sync::Arc;

/// Text on its way to a client, with what may be the beginning of a stop string held
/// back.
#[derive(Debug, Clone)]
pub(super) struct Stops {
    /// None is empty.
    stops: Arc<[String]>,
    held: String,
}

/// What [`Stops::push`] lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passed {
    /// Text before any stop string.
    pub(super) text: String,
    /// A stop string came: the reply ends after `text`.
    pub(super) stopped: bool,
}

impl Stops {
    pub(super) fn new(stops: Arc<[String]>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next text of a reply. The stop string that is complete first ends it;
    /// of two that are complete at the same character, the longer one.
    pub(super) fn push(&mut self, text: &str) -> Passed {
        self.held += text;
        let ends = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = ends.min() {
            self.held.truncate(start);
            return Passed { text: std::mem::take(&mut self.held), stopped: true };
        }
        let kept = self.stops.iter().map(|stop| beginning(stop, &self.held)).max().unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - kept);
        Passed { text: std::mem::replace(&mut self.held, kept), stopped: false }
    }

    /// What is held back when the reply ends by itself.
    pub(super) fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The bytes of the longest end of `text` that `stop` goes on from.
fn beginning(stop: &str, text: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).rev();
    lengths.filter(|&length| length > 0).find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(stops: &[&str], parts: &[&str]) -> (String, bool) {
        let mut filter = Stops::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = String::new();
        for part in parts {
            let passed = filter.push(part);
            shown += &passed.text;
            if passed.stopped {
                return (shown, true);
            }
        }
        (shown + &filter.rest(), false)
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        for (stops, parts, shown, stopped) in [
            (&["END"][..], &["the END is"][..], "the ", true),
            (&["END"], &["the E", "N", "D is"], "the ", true),
            (&["END"], &["the E", "N"], "the EN", false),
            (&["END"], &["the EEN", "D"], "the E", true),
            (&["\n\n", "User:"], &["hi\n", "User", ":"], "hi\n", true),
            (&["€5"], &["cost €", "5"], "cost ", true),
            (&["abcd", "bc"], &["abcd"], "a", true),
            (&["bcd", "abcd"], &["abcd"], "", true),
            (&[], &["as ", "it is"], "as it is", false),
        ] {
            assert_eq!(cut(stops, parts), (shown.to_owned(), stopped), "{stops:?} {parts:?}");
        }
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut filter = Stops::new(Arc::from(["END".to_owned()]));
        assert_eq!(filter.push("then E").text, "then ");
        assert_eq!(filter.push("x").text, "Ex");
    }

    proptest! {
        #[test]
        fn where_the_text_is_cut_into_tokens_changes_nothing(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{1,4}", 0..3),
            cuts in prop::collection::vec(0_usize..24, 0..8),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|&at| text.is_char_boundary(at)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let parts: Vec<_> = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]).collect();
            let (shown, stopped) = cut(&stops, &parts);
            prop_assert_eq!((shown.clone(), stopped), cut(&stops, &[&text]));
            prop_assert!(text.starts_with(&shown));
            prop_assert!(stopped || shown == text);
            prop_assert!(!stops.iter().any(|stop| shown.contains(stop)));
            prop_assert!(!stopped || stops.iter().any(|stop| text[shown.len()..].starts_with(stop)));
        }
    }
}
