//! `albedo plugins`.

use std::fmt::Write;

use serde_json::Value;

use super::exit::Exit;
use super::output::{print, print_json};
use crate::{PluginInfo, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print JSON, with each plugin's schema.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let plugins = Registry::linked()?.list();
    if arguments.json {
        print_json(&plugins)?;
    } else {
        print(&plugins.iter().map(describe).collect::<Vec<_>>().join("\n"))?;
    }
    Ok(Exit::Done)
}

fn describe(plugin: &PluginInfo) -> String {
    let mut text = format!("{} {}\n    {}\n", plugin.role, plugin.name, plugin.summary);
    let required = plugin.schema["required"].as_array().cloned().unwrap_or_default();
    for (name, schema) in plugin.schema["properties"].as_object().into_iter().flatten() {
        let default = match &schema["default"] {
            Value::Null if required.iter().any(|required| required == name) => "required".to_owned(),
            Value::Null => "optional".to_owned(),
            value => format!("default {value}"),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {name} ({default})");
        let summary = schema["description"].as_str().unwrap_or_default();
        let summary = summary.split_whitespace().collect::<Vec<_>>().join(" ");
        if !summary.is_empty() {
            let _ = writeln!(text, "        {summary}");
        }
    }
    text
}
