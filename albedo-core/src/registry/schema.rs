//! JSON schemas with the known plugins in them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ROLES, Registry, Settings};

impl Registry {
    /// The JSON schema of `T`, in which every [`PluginConfig`](super::PluginConfig),
    /// at any depth, is one of this registry's plugins of its role.
    pub fn schema<T: Settings>(&self) -> Value {
        let mut schema = T::schema();
        let plugins = self.list();
        let mut done = BTreeSet::new();
        let mut waiting = roles_of(&mut schema);
        while let Some(role) = waiting.pop() {
            if !done.insert(role) {
                continue;
            }
            let mut choices = Vec::new();
            for plugin in plugins.iter().filter(|plugin| plugin.role == role) {
                let name = format!("{role}-{}", plugin.name);
                let mut settings = plugin.schema.clone();
                waiting.append(&mut roles_of(&mut settings));
                move_references(&mut settings, &name);
                if let Value::Object(settings) = &mut settings {
                    settings.remove("$schema");
                }
                settings["properties"]["name"] = json!({ "const": plugin.name });
                let required = settings["required"].as_array().cloned().unwrap_or_default();
                settings["required"] = required.into_iter().chain([json!("name")]).collect();
                choices.push(json!({ "$ref": format!("#/$defs/{name}") }));
                schema["$defs"][name] = settings;
            }
            // Without a plugin nothing is valid.
            schema["$defs"][role] =
                if choices.is_empty() { json!(false) } else { json!({ "oneOf": choices }) };
        }
        schema
    }
}

/// Takes the definitions of roles out of `schema`.
fn roles_of(schema: &mut Value) -> Vec<&'static str> {
    let Some(definitions) = schema.get_mut("$defs").and_then(Value::as_object_mut) else {
        return Vec::new();
    };
    ROLES.iter().copied().filter(|role| definitions.remove(*role).is_some()).collect()
}

/// Makes the references of a schema that becomes definition `name` of another
/// point into itself; those to a role stay.
fn move_references(schema: &mut Value, name: &str) {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match value {
                    Value::String(target) if key == "$ref" => {
                        let role = target.strip_prefix("#/$defs/");
                        if role.is_none_or(|role| !ROLES.contains(&role)) {
                            *target = target.replacen("#/", &format!("#/$defs/{name}/"), 1);
                        }
                    }
                    other => move_references(other, name),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, name)),
        _ => {}
    }
}
