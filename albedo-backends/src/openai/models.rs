//! The models that a server lists.

use albedo_core::{Error, ErrorKind, Result};
use serde_json::Value;

use super::{LOAD, lenient};

/// What does without the list.
const SKIP: &str = "`check_model = false` does without the list of models";

/// The longest context of `model` in tokens, if `listing`, the body of
/// `GET /models`, tells it.
///
/// # Errors
/// [`ErrorKind::Protocol`] if it is no list; [`ErrorKind::NotFound`] if the model is
/// not on it.
pub(super) fn find(listing: &[u8], model: &str) -> Result<Option<u32>> {
    let listing = read(listing)?;
    let entries = entries(&listing);
    if let Some(entry) = entries.iter().find(|entry| name(entry) == Some(model)) {
        return Ok(context(entry));
    }
    let names: Vec<_> = entries.iter().filter_map(|entry| name(entry)).collect();
    let error = Error::new(ErrorKind::NotFound, LOAD, format!("the server does not serve `{model}`"));
    Err(match nearest(model, &names) {
        Some(near) => error
            .with_hint(format!("did you mean `{near}`? for a name that it takes and does not list, {SKIP}")),
        None => error.with_hint(format!("it lists no models; {SKIP}")),
    })
}

/// The names of the models on `listing`, in its order.
///
/// # Errors
/// [`ErrorKind::Protocol`] if it is no list.
pub(super) fn names(listing: &[u8]) -> Result<Vec<String>> {
    let listing = read(listing)?;
    Ok(entries(&listing).iter().filter_map(name).map(str::to_owned).collect())
}

fn read(listing: &[u8]) -> Result<Value> {
    lenient::value(listing).map_err(|error| {
        let message = format!("the server's list of models is unreadable: {error}");
        Error::new(ErrorKind::Protocol, LOAD, message)
            .with_hint(format!("check that `base_url` is that of a chat server, usually up to `/v1`; {SKIP}"))
    })
}

/// The entries of the list, whatever it stands in: `{"data": […]}`, `{"models": […]}`
/// or alone; Together's is alone.
fn entries(listing: &Value) -> &[Value] {
    let inside = ["data", "models"].iter().find_map(|key| listing.get(key)?.as_array());
    inside.or_else(|| listing.as_array()).map(Vec::as_slice).unwrap_or_default()
}

fn name(entry: &Value) -> Option<&str> {
    entry.as_str().or_else(|| ["id", "name", "model"].iter().find_map(|key| entry.get(key)?.as_str()))
}

/// The context as OpenRouter and Chutes, vLLM, llama.cpp and Groq tell it.
fn context(entry: &Value) -> Option<u32> {
    let keys = ["context_length", "max_model_len", "context_window", "max_context_length"];
    let length = |value: Option<&Value>| lenient::count(value?).filter(|&length| length > 0);
    let told = keys.iter().find_map(|key| length(entry.get(key)));
    told.or_else(|| length(entry.get("meta")?.get("n_ctx_train")))
}

/// The name that shares the longest run of bytes with `model`: providers' names
/// differ in prefixes and suffixes.
fn nearest<'a>(model: &str, known: &[&'a str]) -> Option<&'a str> {
    let model = model.to_lowercase();
    let shared = |name: &str| {
        let name = name.to_lowercase();
        let starts = model.char_indices().map(|(start, _)| start);
        starts
            .map(|start| {
                let ends = model[start..].char_indices().map(|(at, c)| at + c.len_utf8());
                ends.take_while(|&end| name.contains(&model[start..start + end])).last().unwrap_or(0)
            })
            .max()
            .unwrap_or(0)
    };
    known.iter().copied().max_by_key(|name| (shared(name), std::cmp::Reverse(name.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_in_every_shape() {
        for (listing, context) in [
            (r#"{"data": [{"id": "m", "context_length": 4096}]}"#, Some(4096)),
            (r#"{"object": "list", "data": [{"id": "m", "max_model_len": "8192"}]}"#, Some(8192)),
            (r#"[{"id": "m", "context_length": 4096, "price": NaN}]"#, Some(4096)),
            (r#"{"models": [{"name": "m", "model": "m"}], "data": null}"#, None),
            (r#"{"data": ["x", "m"]}"#, None),
            (
                r#"{"data": [null, 3, {}, {"id": "m", "context_length": 0, "meta": {"n_ctx_train": 2048}}]}"#,
                Some(2048),
            ),
            (r#"{"data": [{"id": "m", "context_length": 0}]}"#, None),
        ] {
            assert_eq!(find(listing.as_bytes(), "m").expect(listing), context, "{listing}");
        }
    }

    #[test]
    fn what_is_not_listed_may_be_served_all_the_same() {
        for (listing, words) in [
            (r#"{"data": [{"id": "vendor/m"}, {"id": "x"}]}"#, "did you mean `vendor/m`?"),
            (r#"{"data": null}"#, "it lists no models"),
            ("{}", "it lists no models"),
            ("<html></html>", "unreadable"),
            ("", "unreadable"),
        ] {
            let error = find(listing.as_bytes(), "vendor/m:nitro").expect_err(listing).to_string();
            assert!(error.contains(words) && error.contains("`check_model = false`"), "{error}");
        }
    }
}
