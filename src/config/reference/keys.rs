//! The keys of a schema, in the words of a reader.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::toml::inline;

/// How the names of keys end whose values have a unit. A schema may name another with
/// `x-unit`.
const UNITS: [(&str, &str); 8] = [
    ("_secs", "seconds"),
    ("_ms", "milliseconds"),
    ("_usd", "US dollars"),
    ("_tokens", "tokens"),
    ("_chars", "characters"),
    ("_bytes", "bytes"),
    ("_margin", "points"),
    ("_length", "tokens"),
];

/// One key of a configuration.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Key {
    /// Its path from the table that is described: `generation.sampling.temperature`.
    /// `[]` follows the key of a list whose items have keys of their own.
    pub path: String,
    /// The type of its value, in words.
    pub kind: String,
    /// The unit of its value, if it has one.
    pub unit: Option<String>,
    /// Whether it has to be given.
    pub need: Need,
    /// What it does.
    pub meaning: String,
    /// The values that it may have, if they are few.
    pub choices: Vec<Choice>,
    /// Its value is a table whose keys are listed after it.
    pub is_table: bool,
    /// An example of a value.
    example: Option<Value>,
    line: Line,
}

/// How a key stands in a block of TOML.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Line {
    /// With its default, or with an example if it is required; else in a comment.
    Given,
    /// In a comment: its table may be left out.
    Commented,
    /// Not by itself: in the line of a choice, or in an item of a list.
    Elsewhere,
}

/// Whether a key has to be given.
#[derive(Debug, Clone, PartialEq)]
pub enum Need {
    /// It has to be.
    Required,
    /// It may be left out, and then means nothing.
    Optional,
    /// It may be left out, and then has this value.
    Default(Value),
}

/// A value that a key may have.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The value as TOML.
    pub value: String,
    /// What it means.
    pub meaning: String,
}

/// The keys of `schema`, whose references point into `root`, with those of its tables
/// after each.
pub fn keys(schema: &Value, root: &Value) -> Vec<Key> {
    let mut keys = Vec::new();
    Walk { root, nested: true }.fields(schema, "", Line::Given, &mut keys);
    keys
}

/// The keys of `schema` without those of its tables.
pub(super) fn own_keys(schema: &Value) -> Vec<Key> {
    let mut keys = Vec::new();
    Walk { root: schema, nested: false }.fields(schema, "", Line::Given, &mut keys);
    keys
}

/// A docstring in one paragraph, without links into the code and without its examples.
pub(crate) fn plain(docstring: &str) -> String {
    // Every other part between fences is an example.
    let prose: String = docstring.split("```").step_by(2).collect();
    let mut text = String::new();
    let mut rest = prose.as_str();
    while let Some((before, after)) = rest.split_once('[') {
        text += before;
        let Some((label, tail)) = after.split_once(']') else {
            text.push('[');
            rest = after;
            break;
        };
        let target = tail.strip_prefix('(').and_then(|tail| tail.split_once(')'));
        rest = match target {
            Some((target, tail)) if !target.contains("://") => {
                text += label;
                tail
            }
            // A name in code marks alone is a link into the code, too.
            _ if label.starts_with('`') && label.ends_with('`') => {
                text += label;
                tail
            }
            _ => {
                text.push('[');
                after
            }
        };
    }
    text += rest;
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("`crate::", "`albedo::")
}

impl Key {
    /// Whether it is there only within a value of its table: in one form of a choice, or in
    /// an item of a list.
    pub(super) fn is_elsewhere(&self) -> bool {
        self.line == Line::Elsewhere
    }

    /// The type with its unit.
    pub fn described_kind(&self) -> String {
        match &self.unit {
            Some(unit) => format!("{}, {unit}", self.kind),
            None => self.kind.clone(),
        }
    }

    /// The lines of TOML that give it: its default, or in a comment what it could be.
    pub(super) fn toml(&self) -> Vec<String> {
        let Self { path, need, choices, is_table, example, line, .. } = self;
        let mut lines = Vec::new();
        if *line == Line::Elsewhere {
            return lines;
        }
        // The keys of a table have lines of their own.
        if !is_table {
            let (value, given) = match need {
                Need::Default(value) => (value.clone(), true),
                need => (example.clone().unwrap_or_else(|| "…".into()), *need == Need::Required),
            };
            let mark = if given && *line == Line::Given { "" } else { "# " };
            lines.push(format!("{mark}{path} = {}", inline(&value)));
        }
        // Choices that are tables look like nothing else in the file.
        for Choice { value, .. } in choices.iter().filter(|choice| choice.value.starts_with('{')) {
            let line = format!("{path} = {value}");
            if !lines.contains(&line) {
                lines.push(format!("# {line}"));
            }
        }
        lines
    }
}

struct Walk<'a> {
    root: &'a Value,
    /// Whether the keys of tables are listed, too.
    nested: bool,
}

impl Walk<'_> {
    /// Adds the keys of the object `schema` below `path`.
    fn fields(&self, schema: &Value, path: &str, line: Line, keys: &mut Vec<Key>) {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            // The key that names a variant or plugin is described with the variants.
            if field.get("const").is_none() {
                let is_required = required.iter().any(|required| required == name);
                self.field(field, &join(path, name), is_required, line, keys);
            }
        }
    }

    fn field(&self, field: &Value, path: &str, is_required: bool, line: Line, keys: &mut Vec<Key>) {
        let (value, can_be_null) = self.value(field);
        let need = match &field["default"] {
            Value::Null if is_required && !can_be_null => Need::Required,
            Value::Null => Need::Optional,
            default => Need::Default(default.clone()),
        };
        let word = |name: &str| [field, &value].into_iter().find_map(|schema| schema[name].as_str());
        let role = role(field);
        let kind = role.as_ref().map_or_else(|| self.kind(&value), |role| format!("plugin: {role}"));
        let ending = UNITS.iter().find(|(ending, _)| path.ends_with(ending)).map(|(_, unit)| *unit);
        let is_table = role.is_none() && value["properties"].is_object();
        let optional = is_table && need == Need::Optional;
        keys.push(Key {
            path: path.to_owned(),
            unit: word("x-unit").or(ending.filter(|_| kind.ends_with("number"))).map(str::to_owned),
            need,
            meaning: plain(word("description").unwrap_or_default()),
            choices: if role.is_none() { self.choices(&value) } else { Vec::new() },
            is_table,
            example: given(&field["examples"][0]).or_else(|| example(&kind)),
            kind,
            line,
        });
        if role.is_some() || !self.nested {
            return;
        }
        if is_table {
            let line = if optional && line == Line::Given { Line::Commented } else { line };
            self.fields(&value, path, line, keys);
        } else if let Some(variants) = value["oneOf"].as_array() {
            self.variants(variants, path, keys);
        } else if self::role(&value["items"]).is_none() {
            let (item, _) = self.value(&value["items"]);
            self.fields(&item, &format!("{path}[]"), Line::Elsewhere, keys);
        }
    }

    /// Adds the keys of variants that are tables; one that several have, once.
    fn variants(&self, variants: &[Value], path: &str, keys: &mut Vec<Key>) {
        let mut found: Vec<(Key, Vec<String>)> = Vec::new();
        for variant in variants {
            let mut of_this = Vec::new();
            self.fields(variant, path, Line::Elsewhere, &mut of_this);
            for mut key in of_this {
                if key.meaning.is_empty() {
                    key.meaning = plain(variant["description"].as_str().unwrap_or_default());
                }
                match found.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, names)) => names.extend(tag(variant)),
                    None => found.push((key, tag(variant).into_iter().collect())),
                }
            }
        }
        for (mut key, names) in found {
            // Where the variant is a key itself, the path tells.
            if !names.is_empty() {
                let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
                let _ = write!(key.meaning, " Of {}.", names.join(", "));
            }
            keys.push(key);
        }
    }

    /// What a field refers to, and whether `null` is allowed beside it.
    fn value(&self, field: &Value) -> (Value, bool) {
        let mut field = field.clone();
        let mut can_be_null = false;
        loop {
            if let Some(target) = field["$ref"].as_str() {
                let pointer = target.trim_start_matches('#');
                match self.root.pointer(pointer) {
                    Some(target) => field = target.clone(),
                    None => return (field, can_be_null),
                }
            } else if let Some(one) = beside_null(&field) {
                can_be_null = true;
                field = one;
            } else {
                return (field, can_be_null);
            }
        }
    }

    fn kind(&self, value: &Value) -> String {
        let described = |fallback: &str| match value["description"].as_str() {
            // Types that are texts say which.
            Some(description) if value["title"].is_null() && value["pattern"].is_string() => {
                plain(description)
            }
            _ => fallback.to_owned(),
        };
        let kind = value["type"].as_str().or_else(|| value["type"][0].as_str());
        match kind {
            Some("integer") => "whole number".into(),
            Some("number") => "number".into(),
            Some("boolean") => "`true` or `false`".into(),
            Some("string") => described("text"),
            Some("array") => {
                let (item, _) = self.value(&value["items"]);
                match role(&value["items"]) {
                    Some(role) => format!("list of plugins: {role}"),
                    None => format!("list of {}", plural(&self.kind(&item))),
                }
            }
            Some("object") => "table".into(),
            _ if value["oneOf"].is_array() => "choice".into(),
            _ if value["anyOf"].is_array() => plain(value["description"].as_str().unwrap_or("several types")),
            _ => "any value".into(),
        }
    }

    /// The values of a choice.
    fn choices(&self, value: &Value) -> Vec<Choice> {
        let variants = value["oneOf"].as_array().into_iter().flatten();
        let choice = |variant: &Value| {
            let meaning = plain(variant["description"].as_str().unwrap_or_default());
            let value = match &variant["const"] {
                Value::Null => inline(&self.form(variant)?),
                value => inline(value),
            };
            Some(Choice { value, meaning })
        };
        variants.filter_map(choice).collect()
    }

    /// A table that `variant` takes, with defaults and examples.
    fn form(&self, variant: &Value) -> Option<Value> {
        let mut form = Map::new();
        for (name, field) in variant["properties"].as_object()? {
            let (value, _) = self.value(field);
            let shown =
                [&field["const"], &field["default"], &field["examples"][0]].into_iter().find_map(given);
            let shown = shown.or_else(|| self.form(&value)).or_else(|| example(&self.kind(&value)));
            form.insert(name.clone(), shown.unwrap_or_default());
        }
        Some(Value::Object(form))
    }
}

/// The role of the plugin that a field names.
fn role(field: &Value) -> Option<String> {
    let field = beside_null(field).unwrap_or_else(|| field.clone());
    let name = field["$ref"].as_str()?.strip_prefix("#/$defs/")?;
    // Definitions of types begin with a capital letter.
    let is_role = name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.contains('/');
    is_role.then(|| name.to_owned())
}

fn given(value: &Value) -> Option<Value> {
    (!value.is_null()).then(|| value.clone())
}

/// The single schema beside `null`.
fn beside_null(field: &Value) -> Option<Value> {
    let any = field["anyOf"].as_array()?;
    let others: Vec<_> = any.iter().filter(|schema| schema["type"] != "null").collect();
    match others[..] {
        [one] if any.len() == 2 => Some(one.clone()),
        _ => None,
    }
}

/// The name that tells a variant from the others.
fn tag(variant: &Value) -> Option<String> {
    let fields = variant["properties"].as_object()?;
    fields.values().find_map(|field| field["const"].as_str()).map(str::to_owned)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn plural(kind: &str) -> String {
    match kind {
        "text" | "table" | "number" | "whole number" => format!("{kind}s"),
        other => other.to_owned(),
    }
}

/// An example of a value of that type.
fn example(kind: &str) -> Option<Value> {
    match kind {
        "whole number" => Some(1.into()),
        "number" => Some(1.0.into()),
        "`true` or `false`" => Some(true.into()),
        "table" => Some(Value::Object(Map::new())),
        kind if kind.starts_with("list of plugins") => Some(json!([{ "name": "…" }])),
        kind if kind.starts_with("list of") => Some(json!([])),
        kind if kind.starts_with("plugin: ") => Some(json!({ "name": "…" })),
        _ => None,
    }
}
