//! Values as TOML writes them.

use serde_json::Value;

/// `value` in one line.
pub(super) fn inline(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) if fields.values().all(Value::is_null) => "{}".into(),
        Value::Object(fields) => {
            let given = fields.iter().filter(|(_, value)| !value.is_null());
            let fields: Vec<_> =
                given.map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            format!("{{ {} }}", fields.join(", "))
        }
        // Texts are quoted alike in JSON and TOML.
        other => other.to_string(),
    }
}

/// `key` as it may stand before a value.
fn bare(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(plain) { key.to_owned() } else { Value::from(key).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_back_as_they_were() {
        let value = json!({ "a b": [1, 2.5, "x\"y"], "c": { "d": true, "none": null }, "e": {} });
        let line = format!("value = {}", inline(&value));
        let read = line.parse::<::toml::Table>().expect("TOML");
        let expected = json!({ "a b": [1, 2.5, "x\"y"], "c": { "d": true }, "e": {} });
        assert_eq!(serde_json::to_value(&read["value"]).expect("JSON"), expected);
    }
}
