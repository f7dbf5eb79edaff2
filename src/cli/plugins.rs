//! `albedo plugins`.

use serde::Serialize;
use serde_json::Value;

use super::exit::Exit;
use super::output::{print, print_json};
use crate::config::{Choice, DuelConfig, Need, keys, plain};
use crate::registry::nearest;
use crate::report::Look;
use crate::{Error, ErrorKind, Fault, PluginInfo, Registry, Result};

/// Parts of a duel that are chosen by name and are no plugins: the key of `[duel]`
/// that chooses one, as a definition of the configuration's schema, and what it is called.
const CHOICES: [(&str, &str); 4] =
    [("Rule", "rule"), ("Terms", "terms"), ("Reducer", "reducer"), ("Sampler", "sampler")];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  albedo plugins --role judge      the judges that this program has
  albedo plugins chat              every setting of the judge `chat`
  albedo plugins --role rule       the decision rules with their constants

A plugin is named in a configuration by `name`, with its settings beside it; a judge is
one [[judges]] table. `albedo new judge NAME` writes a crate with a judge of your own.")]
pub(crate) struct Arguments {
    /// Show what has this name only.
    name: Option<String>,
    /// Show what has this role only: `backend`, `tasks`, `judge`, `screen`, `hub`, `store`,
    /// `chain`; or `rule`, `terms`, `reducer`, `sampler`, which `[duel]` chooses.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Print JSON, with the schema of each one's settings.
    #[arg(long)]
    json: bool,
}

/// Something that a configuration chooses by name.
#[derive(Debug, Serialize)]
struct Part {
    role: String,
    name: String,
    summary: String,
    /// The module that registered a plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<&'static str>,
    schema: Value,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let registry = Registry::linked()?;
    let known: Vec<Part> = registry
        .list()
        .into_iter()
        .map(Part::plugin)
        .chain(choices(&DuelConfig::schema(&registry)))
        .collect();
    let wanted = |part: &Part| {
        arguments.name.as_ref().is_none_or(|name| part.name == *name)
            && arguments.role.as_ref().is_none_or(|role| part.role == *role)
    };
    if !known.iter().any(wanted) {
        return Err(unknown(arguments, &known));
    }
    let parts: Vec<_> = known.into_iter().filter(wanted).collect();
    if arguments.json {
        print_json(&parts)?;
    } else {
        let look = Look::of_stdout();
        print(&parts.iter().map(|part| part.describe(look)).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Done)
}

fn unknown(arguments: &Arguments, known: &[Part]) -> Error {
    let mut roles: Vec<_> = known.iter().map(|part| part.role.as_str()).collect();
    roles.dedup();
    let meant = |given: &str, known: &[&str]| {
        let meant = nearest(given, known.iter().copied());
        meant.map(|known| format!("did you mean `{known}`? ")).unwrap_or_default()
    };
    let hint = match (&arguments.name, &arguments.role) {
        (_, Some(role)) if !roles.contains(&role.as_str()) => {
            format!("{}roles: {}", meant(role, &roles), roles.join(", "))
        }
        (name, role) => {
            let listed = known.iter().filter(|part| role.as_ref().is_none_or(|role| part.role == *role));
            let listed: Vec<_> = listed.map(|part| part.name.as_str()).collect();
            let meant = name.as_deref().map(|name| meant(name, &listed)).unwrap_or_default();
            format!("{meant}known: {}", listed.join(", "))
        }
    };
    let mut error = Error::new(ErrorKind::UnknownPlugin, "list plugins", "this program has none such")
        .with_fault(Fault::Operator)
        .with_hint(hint);
    for (key, value) in [("name", &arguments.name), ("role", &arguments.role)] {
        if let Some(value) = value {
            error = error.with(key, value);
        }
    }
    error
}

/// The variants of [`CHOICES`].
fn choices(schema: &Value) -> Vec<Part> {
    let mut parts = Vec::new();
    for (definition, role) in CHOICES {
        for variant in schema["$defs"][definition]["oneOf"].as_array().into_iter().flatten() {
            let fields = variant["properties"].as_object();
            let tag = variant["properties"]["name"]["const"].as_str();
            // A text, a table with a name, or a table below the name.
            let (name, settings) = match (variant["const"].as_str(), tag, fields) {
                (Some(name), ..) | (None, Some(name), _) => (name, variant),
                (None, None, Some(fields)) => match fields.iter().next() {
                    Some((name, settings)) => (name.as_str(), settings),
                    None => continue,
                },
                (None, None, None) => continue,
            };
            let summary = plain(variant["description"].as_str().unwrap_or_default());
            let (role, name, schema) = (role.into(), name.into(), settings.clone());
            parts.push(Part { role, name, summary, module: None, schema });
        }
    }
    parts
}

impl Part {
    fn plugin(plugin: PluginInfo) -> Self {
        let PluginInfo { role, name, summary, module, schema, .. } = plugin;
        Self { role: role.into(), name: name.into(), summary: summary.into(), module: Some(module), schema }
    }

    fn describe(&self, look: Look) -> String {
        let Self { role, name, summary, schema, .. } = self;
        let mut text = format!("{role} {}\n", look.strong(name));
        text += &look.hanging("", 4, summary);
        for key in keys(schema, schema) {
            let need = match &key.need {
                Need::Required => ", required".into(),
                Need::Optional => ", optional".into(),
                Need::Default(_) if key.is_table => String::new(),
                Need::Default(value) => format!(", default {value}"),
            };
            let kind = key.described_kind();
            text += &look.hanging("", 4, &format!("{} ({kind}{need})", look.strong(&key.path)));
            if !key.meaning.is_empty() {
                text += &look.hanging("", 8, &key.meaning);
            }
            for Choice { value, meaning } in &key.choices {
                let meaning = if meaning.is_empty() { String::new() } else { format!(": {meaning}") };
                text += &look.hanging("", 10, &format!("{value}{meaning}"));
            }
        }
        text
    }
}
