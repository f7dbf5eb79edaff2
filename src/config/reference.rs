//! The reference of configuration files, worked out from the types that read them.
//!
//! [`reference`] is `docs/configuration-reference.md` and what `albedo config
//! reference` prints; `albedo plugins` prints the [`keys`] of one plugin.

use std::fmt::Write;

use serde_json::Value;

use super::DuelConfig;
use crate::{PluginInfo, Registry};

mod keys;
mod toml;

#[cfg(feature = "cli")]
pub(crate) use keys::plain;
pub use keys::{Choice, Key, Need, keys};

/// The chapters after those of the file itself: a role, its title, and where a
/// configuration names plugins of that role.
const ROLES: [(&str, &str, &str); 5] = [
    ("backend", "Backends", "[backend]"),
    ("tasks", "Tasks", "[tasks]"),
    ("judge", "Judges", "[[judges]]"),
    ("screen", "Screens", "[[screens]]"),
    ("hub", "Hubs", "[[hubs]]"),
];

const HEAD: &str = "\
# Configuration reference

<!-- Made by `albedo config reference`, and compared with it by a test. Edit the types' documentation. -->

Every key of the configuration files of a duel, a server, a validator and a distillation, from the program itself: `albedo config reference`
prints this page for the plugins that your program has. [configuration.md](configuration.md) explains how the parts fit together. In the
TOML below, keys have their defaults; those in comments have none, or take another form.

";

/// Every key of a duel's configuration, of a server's, of a validator's, and of the plugins
/// of `registry` that one can name, as Markdown.
pub fn reference(registry: &Registry) -> String {
    let schema = DuelConfig::schema(registry);
    let mut text = HEAD.to_owned();
    text += &chapter("## The file", &prose(&schema), "", &keys::own_keys(&schema));
    for (definition, title, table) in [
        ("ModelConfig", "## `[king]`, `[challenger]`, `[anchor]`", "[king]"),
        ("DuelSettings", "## `[duel]`", "[duel]"),
    ] {
        let definition = &schema["$defs"][definition];
        text += &chapter(title, &prose(definition), table, &keys(definition, &schema));
    }
    let plugins = registry.list();
    for (role, title, table) in ROLES {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "## {title}\n");
        for plugin in plugins.iter().filter(|plugin| plugin.role == role) {
            let PluginInfo { name, summary, schema, .. } = plugin;
            let header = format!("{table}\nname = \"{name}\"");
            let summary = format!("{}.", capitalised(summary));
            text += &chapter(&format!("### {role} `{name}`"), &summary, &header, &keys(schema, schema));
        }
    }
    #[cfg(feature = "server")]
    server(&mut text, registry);
    #[cfg(feature = "validator")]
    validator(&mut text, registry);
    #[cfg(feature = "distil")]
    distillation(&mut text, registry);
    text.trim_end().to_owned() + "\n"
}

/// Adds the keys of a distillation's configuration.
#[cfg(feature = "distil")]
fn distillation(text: &mut String, registry: &Registry) {
    let schema = crate::distil::DistilConfig::schema(registry);
    *text += &chapter("## The distillation's file", &prose(&schema), "", &keys::own_keys(&schema));
    for (definition, title, table) in [
        ("StudentSettings", "## `[student]`", "[student]"),
        ("DataSettings", "## `[data]`", "[data]"),
        ("StageSettings", "## `[[stage]]`", "[[stage]]"),
        ("TrainSettings", "## `[train]`", "[train]"),
        ("GateSettings", "## `[gate]`", "[gate]"),
    ] {
        let definition = &schema["$defs"][definition];
        *text += &chapter(title, &prose(definition), table, &keys(definition, &schema));
    }
}

/// Adds the keys of a server's configuration.
#[cfg(feature = "server")]
fn server(text: &mut String, registry: &Registry) {
    let schema = crate::server::ServerConfig::schema(registry);
    *text += &chapter("## The server's file", &prose(&schema), "", &keys::own_keys(&schema));
    for (definition, title, table) in [
        ("ServedModelConfig", "## `[[models]]`", "[[models]]"),
        ("TlsConfig", "## `[tls]`", "[tls]"),
        ("Limits", "## `[limits]`", "[limits]"),
        ("NatsConfig", "## `[nats]`", "[nats]"),
    ] {
        let definition = &schema["$defs"][definition];
        // Not every feature is built in.
        if definition.is_null() {
            continue;
        }
        *text += &chapter(title, &prose(definition), table, &keys(definition, &schema));
    }
}

/// Adds the keys of a validator's configuration.
#[cfg(feature = "validator")]
fn validator(text: &mut String, registry: &Registry) {
    let schema = crate::validator::ValidatorConfig::schema(registry);
    *text += &chapter("## The validator's file", &prose(&schema), "", &keys::own_keys(&schema));
    for (definition, title, table) in [
        ("FollowSettings", "## `[follow]`", "[follow]"),
        ("EntrySettings", "## `[entry]`", "[entry]"),
        ("ReignSettings", "## `[reign]`", "[reign]"),
        ("LogSettings", "## `[log]`", "[log]"),
        ("PublishSettings", "## `[publish]`", "[publish]"),
        ("OperateSettings", "## `[operate]`", "[operate]"),
    ] {
        let definition = &schema["$defs"][definition];
        *text += &chapter(title, &prose(definition), table, &keys(definition, &schema));
    }
}

/// What the check of the guides reads before a block.
const NOT_RUN: &str =
    "<!-- not run: every key of a table at once is no configuration; a test reads the block as TOML -->";

/// A table of `keys`, and a block of TOML with all of them below `header`.
fn chapter(title: &str, summary: &str, header: &str, keys: &[Key]) -> String {
    let mut text = format!("{title}\n\n");
    if !summary.is_empty() {
        let _ = writeln!(text, "{summary}\n");
    }
    if !keys.is_empty() {
        text += "| key | type | default | meaning |\n|---|---|---|---|\n";
        for key in keys {
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                key.path,
                cell(&key.described_kind()),
                cell(&default(key)),
                cell(&meaning(key))
            );
        }
        text.push('\n');
    }
    if !header.is_empty() {
        let lines: Vec<_> = keys.iter().flat_map(Key::toml).collect();
        let _ = writeln!(text, "{NOT_RUN}\n```toml\n{header}\n{}\n```\n", lines.join("\n"));
    }
    text
}

fn default(key: &Key) -> String {
    match &key.need {
        Need::Required if key.is_elsewhere() => "**required** there".into(),
        Need::Required => "**required**".into(),
        Need::Optional => "none".into(),
        // The default of a table is that of its keys.
        Need::Default(Value::Object(fields)) if !fields.is_empty() && key.is_table => String::new(),
        Need::Default(value) => format!("`{}`", toml::inline(value)),
    }
}

fn meaning(key: &Key) -> String {
    let choices = key.choices.iter().map(|choice| {
        let Choice { value, meaning } = choice;
        if meaning.is_empty() { format!("<br>`{value}`") } else { format!("<br>`{value}`: {meaning}") }
    });
    key.meaning.clone() + &choices.collect::<String>()
}

/// What the schema says of itself, in one paragraph.
fn prose(schema: &Value) -> String {
    keys::plain(schema["description"].as_str().unwrap_or_default())
}

/// Text for a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DuelSettings;

    /// The blocks of TOML in the reference.
    fn blocks(reference: &str) -> Vec<&str> {
        let blocks = reference.split("```toml\n").skip(1);
        blocks.map(|block| block.split("```").next().unwrap_or_default()).collect()
    }

    #[test]
    fn every_block_is_toml_and_the_duels_has_the_defaults() {
        let reference = reference(&Registry::linked().expect("a registry"));
        let blocks = blocks(&reference);
        assert!(blocks.len() > 4, "{reference}");
        for block in &blocks {
            let read = block.parse::<::toml::Table>();
            assert!(read.is_ok(), "{block}\n{read:?}");
        }
        let duel = blocks.iter().find(|block| block.starts_with("[duel]")).expect("the duel's settings");
        let given = format!("king.path='k'\nchallenger.path='c'\ntasks.name='t'\njudges=[]\n{duel}");
        let config = DuelConfig::parse(&given).expect("reads");
        assert_eq!(config.duel, DuelSettings::default());
    }

    #[test]
    fn every_key_says_what_it_does() {
        let registry = Registry::linked().expect("a registry");
        let schema = DuelConfig::schema(&registry);
        let of_plugins = registry.list();
        let of_plugins = of_plugins.iter().flat_map(|plugin| {
            keys(&plugin.schema, &plugin.schema).into_iter().map(move |key| (plugin.name, key))
        });
        let of_the_duel = keys(&schema["$defs"]["DuelSettings"], &schema);
        let of_the_duel = of_the_duel.into_iter().map(|key| ("duel", key));
        for (of, key) in of_plugins.chain(of_the_duel) {
            assert!(!key.meaning.is_empty(), "{of}: {} has no meaning", key.path);
            assert!(!key.kind.is_empty(), "{of}: {} has no type", key.path);
        }
    }

    #[cfg(feature = "validator")]
    #[test]
    fn the_validators_keys_are_there_with_their_meanings_and_defaults() {
        use crate::validator::{EntrySettings, ReignSettings, ValidatorConfig};

        let registry = Registry::linked().expect("a registry");
        let schema = ValidatorConfig::schema(&registry);
        for key in keys::own_keys(&schema) {
            assert!(!key.meaning.is_empty() && !key.kind.is_empty(), "{}", key.path);
        }
        let reference = reference(&registry);
        let blocks = blocks(&reference);
        let block = |table: &str| {
            let block = blocks.iter().find(|block| block.starts_with(table)).expect("a block");
            block
                .parse::<::toml::Table>()
                .expect("is TOML")
                .remove(table.trim_matches(['[', ']']))
                .expect("a table")
        };
        let entry: EntrySettings = block("[entry]").try_into().expect("reads");
        let reign: ReignSettings = block("[reign]").try_into().expect("reads");
        assert_eq!((entry, reign), (EntrySettings::default(), ReignSettings::default()));
        for line in [
            "| `screen_profile` | text | none |",
            "| `webhook.after_secs` |",
            "| `to` | text | **required** |",
        ] {
            assert!(reference.contains(line), "{line}");
        }
    }

    #[test]
    fn rules_terms_canaries_and_the_panel_are_spelled_out() {
        let reference = reference(&Registry::linked().expect("a registry"));
        for line in [
            "rule = { name = \"sequential\", null_margin = 0.0, win_margin = 2.0 }",
            "# rule = { name = \"margin\", win_margin = 2.0 }",
            "terms = { standalone = { alpha = 0.05 } }",
            "# terms = { reign = { attempt = 1, share = 0.0002 } }",
            "panel.reducer = \"mean\"",
            "# canaries.preflight = 4",
            "| `rule.win_margin` | number, points | `2.0` |",
        ] {
            assert!(reference.contains(line), "{line}\n{reference}");
        }
    }
}
