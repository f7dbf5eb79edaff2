//! Names that were mistyped.

/// The one of `known` that `name` is most likely meant to be; `None` if more than
/// half of it would have to change.
#[doc(hidden)]
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
        .map(|(_, known)| known)
}
