//! A text that arrives in pieces, in ever longer wholes, or in both.

/// What servers send of a text: pieces to be put together (`delta`), or wholes
/// (`message`) that each hold the text so far, or again only a piece. Nothing is
/// doubled, and nothing dropped but what the server itself replaces.
#[derive(Debug, Default)]
pub(super) struct Text {
    /// The pieces, put together.
    joined: String,
    /// Where the last of them begins.
    last: usize,
    /// The latest whole, as long as each begins with the one before it.
    grown: Option<String>,
    wholes: usize,
    by_pieces: bool,
}

impl Text {
    /// A piece; says whether it holds anything.
    pub(super) fn piece(&mut self, piece: &str) -> bool {
        if piece.is_empty() {
            return false;
        }
        if !self.by_pieces {
            self.joined = std::mem::take(self).read();
            self.by_pieces = true;
        }
        self.joined.push_str(piece);
        true
    }

    /// What calls itself the message, beside `piece` of the same event; `last` in
    /// the event that ends the text. Says whether it brings anything.
    pub(super) fn whole(&mut self, whole: &str, piece: &str, last: bool) -> bool {
        if whole.is_empty() {
            return false;
        }
        if self.by_pieces {
            // Some servers repeat the piece here.
            let repeats = whole == piece;
            if whole.starts_with(&self.joined) || (last && !repeats) {
                let brings = *whole != self.joined;
                whole.clone_into(&mut self.joined);
                return brings;
            }
            return false;
        }
        let grows = self.wholes == 0 || self.grown.as_ref().is_some_and(|grown| whole.starts_with(&**grown));
        self.grown = grows.then(|| whole.to_owned());
        self.last = self.joined.len();
        self.joined.push_str(whole);
        self.wholes += 1;
        true
    }

    /// Whether nothing has come.
    pub(super) fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// What is certain of the text so far: the pieces, if it comes in pieces.
    pub(super) fn so_far(&self) -> &str {
        if self.by_pieces { &self.joined } else { "" }
    }

    /// The text.
    pub(super) fn read(self) -> String {
        if self.by_pieces {
            return self.joined;
        }
        if let Some(grown) = self.grown {
            return grown;
        }
        // Pieces, and then the whole once more.
        let (pieces, last) = self.joined.split_at(self.last);
        if last.starts_with(pieces) { last.to_owned() } else { self.joined }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of a delta, a message and whether it is the last.
    fn read(events: &[(&str, &str, bool)]) -> String {
        let mut text = Text::default();
        for (piece, whole, last) in events {
            text.piece(piece);
            text.whole(whole, piece, *last);
        }
        text.read()
    }

    #[test]
    fn no_text_is_doubled_or_dropped() {
        for (events, expected) in [
            (&[("one ", "", false), ("two", "", true)][..], "one two"),
            (&[("one ", "one ", false), ("two", "one two", false), ("", "one two", true)], "one two"),
            (&[("one ", "", false), ("two", "", false), ("", "one two", true)], "one two"),
            (&[(" one ", "", false), ("two\n", "", false), ("", "one two", true)], "one two"),
            (&[("", "one ", false), ("", "two", true)], "one two"),
            (&[("", "one ", false), ("", "one two", false), ("", "one two", true)], "one two"),
            (&[("", "one ", false), ("", "two", false), ("", "one two", true)], "one two"),
            (&[("", "ha", false), ("", "ha", false), ("", "!", true)], "haha!"),
            (&[("one ", "one ", false), ("two", "two", true)], "one two"),
            (&[("two", "one ", false), (" three", "one two", true)], "one two"),
            (&[("", "the whole", true)], "the whole"),
            (&[("", "one ", false), ("two", "", true)], "one two"),
            (&[], ""),
        ] {
            assert_eq!(read(events), expected, "{events:?}");
        }
    }
}
