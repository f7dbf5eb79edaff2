//! Whether words address a judge that compares replies.
//!
//! A text that wants to be preferred has to say which of two texts is meant: it points at itself or at its rival, or
//! names the reader. So words speak if they name a reader, or if a pointing word stands near a word for a text. Code and
//! its comments seldom do both. It is a guess that only decides what a judge is asked about.

/// Words by which a text points at itself or at its rival. Source: written by albedo with the frozen corpus at hand.
const POINTING: &str = "this these here itself present current above mine my our other rival beside opposing opponent opponents competing competitor neighbour neighbor both former latter alternative";

/// Words for what is compared.
const TEXTS: &str = "text texts turn turns reply replies response responses answer answers submission submissions candidate candidates one entry entries command action pair contestant side transcript completion solution option";

/// Words for who reads.
const READERS: &str = "reader readers judge judges grader graders evaluator evaluators referee jury assessor assessors panelist panelists adjudicator rater raters arbiter";

/// Words between a pointing word and a word for a text, at most. Source: chosen by albedo.
const NEAR: usize = 3;

/// Whether `words` speak to a reader.
pub(super) fn speaks<'a>(words: impl Iterator<Item = &'a str>) -> bool {
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    let is = |place: usize, list: &str| {
        words.get(place).is_some_and(|word| list.split(' ').any(|known| known == word))
    };
    (0..words.len()).any(|place| {
        if is(place, READERS) {
            return true;
        }
        if !is(place, POINTING) {
            return false;
        }
        let near = place.saturating_sub(NEAR)..=place + NEAR;
        // Beside something that it points at: `what is beside this`.
        near.clone().any(|other| is(other, TEXTS))
            || (words[place] == "beside" && near.clone().any(|other| other != place && is(other, POINTING)))
    })
}
