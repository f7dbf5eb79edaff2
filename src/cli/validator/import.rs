//! `albedo validator import`: start where the Python system stands.

use std::path::PathBuf;

use serde_json::json;

use super::super::exit::Exit;
use super::super::output::{note, print, print_json, shown};
use super::super::source::model;
use super::competition::{Became, Changing, configured, now_ms};
use crate::report::Look;
use crate::validator::ledger::{Imported, Ledger};
use crate::validator::{Import, ValidatorConfig, is_same_model, read_import};
use crate::{Error, ErrorKind, Fault, ModelRef, Result};

const OPERATION: &str = "enter the Python system's state";

/// Places that are printed of what was not understood.
const SHOWN: usize = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder with the Python system's files, or one of them.
    path: PathBuf,
    /// The first king, who earns nothing: a folder or a hub's reference [default: the
    /// configuration's, else the ledger's, else the one among the kings that is nobody's].
    #[arg(long, value_name = "MODEL")]
    genesis: Option<String>,
    /// Enter the rest although something was not understood.
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    changing: Changing,
}

pub(super) async fn run(arguments: &Arguments) -> Result<Exit> {
    let Arguments { path, partial, changing, .. } = arguments;
    let config = changing.which.config()?;
    let import = read_import(path)?;
    let there = config.ledger().exists();
    let before = if there { Some(changing.open(&config)?) } else { None };
    let source = import.source()?;
    let became = match &before {
        Some(ledger) => ledger.can_import(source).await?,
        None => Imported::Done,
    };
    let first = first_king(arguments, &config, before.as_ref(), &import).await?;
    let entered = import.entered(first.clone(), &config.entry)?;
    let became = match became {
        Imported::Already => Became::Already,
        Imported::Done if !changing.yes => Became::Preview,
        Imported::Done => {
            if !import.unread.is_empty() && !partial {
                say_unread(&import);
                let message = format!("{} places were not understood", import.unread.len());
                return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message)
                    .with_fault(Fault::Operator)
                    .with("path", path.display())
                    .with_hint("mend them, or enter the rest with `--partial`"));
            }
            // The fingerprints first: killed after them, the next run finds them there.
            import.remember(&config)?;
            let ledger = if let Some(ledger) = before {
                ledger
            } else {
                let state = config.state();
                std::fs::create_dir_all(&state).map_err(|error| Error::io(OPERATION, &state, error))?;
                Ledger::open(&config.ledger())?
            };
            ledger.import(entered.clone(), now_ms()).await?;
            Became::Done
        }
    };
    let found = import.found();
    if changing.json {
        let kings: Vec<_> = entered
            .kings
            .iter()
            .map(|king| json!({ "hotkey": king.hotkey, "model": king.model.to_string() }))
            .collect();
        print_json(
            &json!({ "became": became, "source": source, "first_king": first.to_string(), "kings": kings,
            "hotkeys": found.hotkeys, "contents": found.contents, "fingerprints": found.fingerprints,
            "unread": import.unread, "left_out": import.left_out.iter()
                .map(|(file, why)| json!({ "file": file, "why": why })).collect::<Vec<_>>(),
            "ledger": config.ledger() }),
        )?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut text = look.entry("first king", &first.to_string());
    for (place, king) in entered.kings.iter().enumerate() {
        let label = if place == 0 { "kings" } else { "" };
        text += &look.entry(label, &format!("{}  {}", shown(&king.hotkey.0), king.model));
    }
    text += &look.entry(
        "take no part",
        &format!("{} hotkeys, {} models and repositories", found.hotkeys, found.contents),
    );
    text += &look.entry("fingerprints", &found.fingerprints.to_string());
    for (place, (file, why)) in import.left_out.iter().enumerate() {
        let label = if place == 0 { "left out" } else { "" };
        text += &look.entry(label, &format!("{}: {why}", shown(file)));
    }
    text += &look.entry("ledger", &config.ledger().display().to_string());
    text += &look.entry(
        "",
        match became {
            Became::Preview => "would enter it",
            Became::Done => "entered: the newest king reigns, and the weights are the kings'",
            Became::Already => "it was entered before: nothing to do",
        },
    );
    print(&text)?;
    say_unread(&import);
    changing.say(became);
    Ok(Exit::Done)
}

/// Names what was not understood.
fn say_unread(import: &Import) {
    for unread in import.unread.iter().take(SHOWN) {
        note(&format!("not understood: {}, line {}: {}", unread.file, unread.line, shown(&unread.why)));
    }
    if import.unread.len() > SHOWN {
        note(&format!("and {} places more; `--json` lists them all", import.unread.len() - SHOWN));
    }
}

/// The first king: named, configured, in the ledger, or among the kings.
async fn first_king(
    arguments: &Arguments,
    config: &ValidatorConfig,
    ledger: Option<&Ledger>,
    import: &Import,
) -> Result<ModelRef> {
    let named = arguments.genesis.as_deref().map(model).transpose()?;
    let entered = match ledger {
        Some(ledger) => ledger.first_king().await?.map(|king| king.model),
        None => None,
    };
    let found = import.genesis(&config.entry);
    let candidates = [("--genesis", named), ("genesis", configured(config)?), ("ledger", entered)];
    let mut given = candidates.into_iter().filter_map(|(from, model)| Some((from, model?)));
    let Some((from, first)) = given.next() else {
        return found.ok_or_else(|| {
            Error::new(
                ErrorKind::ConfigInvalid,
                OPERATION,
                "nothing names the first king, which every model is aligned to",
            )
            .with_fault(Fault::Operator)
            .with_hint("name it with `--genesis MODEL`, or under `genesis` in the configuration")
        });
    };
    if let Some((other, model)) = given.find(|(_, model)| !is_same_model(model, &first)) {
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "two different first kings are named")
            .with_fault(Fault::Operator)
            .with(from, first)
            .with(other, model)
            .with_hint("name the same one, or one alone"));
    }
    Ok(first)
}
