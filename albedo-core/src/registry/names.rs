//! Names that were mistyped.

use crate::error::{Error, ErrorKind};

/// The one of `known` that `name` is most likely meant to be; `None` if more than
/// half of it would have to change.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
        .map(|(_, known)| known)
}

/// What serde says of a configuration, as an error of `operation` at `path`; with
/// the nearest known name for an unknown key or choice.
#[doc(hidden)]
pub fn mistake(operation: &str, path: &str, message: &str) -> Error {
    let mut error = Error::new(ErrorKind::ConfigInvalid, operation, message);
    if path != "." {
        error = error.with("key", path);
    }
    match suggestion(message) {
        Some(known) => error.with_hint(format!("did you mean `{known}`?")),
        None => error,
    }
}

/// serde's messages are "unknown field `x`, expected one of `a`, `b`", and the
/// same with "variant".
fn suggestion(message: &str) -> Option<&str> {
    let unknown = ["unknown field `", "unknown variant `"];
    let (name, expected) = unknown.iter().find_map(|start| message.strip_prefix(start))?.split_once('`')?;
    nearest(name, expected.split('`').skip(1).step_by(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_key_is_suggested() {
        let hint = |message| mistake("read", "a.b", message).hint().map(str::to_owned);
        let one_of = "unknown field `sampels`, expected one of `seed`, `samples`, `rule`";
        assert_eq!(hint(one_of).as_deref(), Some("did you mean `samples`?"));
        let either = "unknown variant `majorty`, expected `margin` or `majority`";
        assert_eq!(hint(either).as_deref(), Some("did you mean `majority`?"));
        assert_eq!(hint("unknown field `colour`, expected `seed` or `rule`"), None);
        assert_eq!(hint("unknown field `colour`, there are no fields"), None);
        assert_eq!(hint("missing field `name`"), None);
    }
}
