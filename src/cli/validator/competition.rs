//! Competitions: `genesis` and `reset`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;

use super::super::exit::Exit;
use super::super::output::{note, print, print_json};
use super::super::source::{model, version};
use super::Which;
use crate::config::ModelConfig;
use crate::report::Look;
use crate::validator::ledger::{Ends, KingRow, Ledger, Reset};
use crate::validator::{Genesis, ValidatorConfig, genesis_files, is_same_model};
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, ModelRef, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct First {
    /// The first king: a folder, or a hub's reference such as `oci:owner/model@sha256:…`.
    #[arg(value_name = "MODEL")]
    model: String,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Again {
    /// What the new competition's commitments begin with: `v8` after `v7`.
    #[arg(id = "commitments", value_name = "VERSION", value_parser = version)]
    version: u8,
    /// Its first king, who earns nothing: a folder, or a hub's reference
    /// [default: the configuration's, else the first king of the present competition].
    #[arg(long, value_name = "MODEL")]
    genesis: Option<String>,
    /// Why, for the public data and the log of duels, which everybody can read.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    changing: Changing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Changing {
    #[command(flatten)]
    pub(super) which: Which,
    /// Do it. Without this, the command says what it would do and changes nothing.
    #[arg(long)]
    pub(super) yes: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What became of a command that previews.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Became {
    /// It was only said what it would do.
    Preview,
    /// It was done.
    Done,
    /// It had been done before.
    Already,
}

impl Changing {
    /// Opens the ledger: to look at, or to change with `--yes`. No validator works with it
    /// meanwhile.
    pub(super) fn open(&self, config: &ValidatorConfig) -> Result<Ledger> {
        let path = config.ledger();
        if self.yes && path.exists() { Ledger::open(&path) } else { Ledger::read_alone(&path) }
    }

    pub(super) fn say(&self, became: Became) {
        if became == Became::Preview && !self.json {
            note("nothing was changed; the same command with `--yes` does it");
        }
    }
}

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Looks at the files of the first king `model`.
async fn looked_at(config: &ValidatorConfig, model: &ModelRef, cx: &CallContext) -> Result<Genesis> {
    let registry = Registry::linked()?;
    let build = BuildContext::new(&registry, cx).with_resources(super::resources(config));
    genesis_files(config, model, &build).await
}

/// The first king that the configuration names.
pub(super) fn configured(config: &ValidatorConfig) -> Result<Option<ModelRef>> {
    let named = config.genesis.as_ref().map(ModelConfig::model).transpose()?;
    Ok(named.map(|model| model.relative_to(&config.folder)))
}

fn files(found: &Genesis) -> String {
    format!("{} files, {:.1} MB", found.files, found.bytes as f64 / 1e6)
}

/// Enters the first king.
pub(super) async fn genesis(First { model: named, changing }: &First, cx: &CallContext) -> Result<Exit> {
    let config = changing.which.config()?;
    let model = model(named)?;
    if let Some(other) = configured(&config)?.filter(|other| !is_same_model(other, &model)) {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "enter the first king",
            "the configuration names another first king",
        )
        .with_fault(Fault::Operator)
        .with("key", "genesis")
        .with("configuration", other)
        .with("named", &model)
        .with_hint("name the same model, or remove `genesis` from the configuration"));
    }
    let before = match changing.open(&config) {
        Ok(ledger) => ledger.first_king().await?,
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(king) = &before
        && !is_same_model(&king.model, &model)
    {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "enter the first king",
            "the competition has another first king",
        )
        .with_fault(Fault::Operator)
        .with("ledger", &king.model)
        .with("named", &model)
        .with_hint(format!(
            "`albedo validator reset VERSION --genesis MODEL --reason TEXT{}` begins another competition with this one",
            changing.which.again()
        )));
    }
    let found = looked_at(&config, &model, cx).await?;
    let (became, king) = match before {
        Some(king) => (Became::Already, Some(king)),
        None if changing.yes => (Became::Done, Some(enter(&config, model).await?)),
        None => (Became::Preview, None),
    };
    if changing.json {
        let Genesis { model, files, bytes } = &found;
        print_json(&json!({ "became": became, "model": model.to_string(), "files": files, "bytes": bytes,
            "king": king.map(|king| king.id), "ledger": config.ledger().display().to_string() }))?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut text = look.entry("first king", &format!("{}  {}", found.model, files(&found)));
    text += &look.entry("ledger", &config.ledger().display().to_string());
    text += &look.entry(
        "",
        match became {
            Became::Preview => "would enter it: it earns nothing, and every model is aligned to it",
            Became::Done => "entered: it earns nothing, and every model is aligned to it",
            Became::Already => "it is the first king already: nothing to do",
        },
    );
    print(&text)?;
    changing.say(became);
    Ok(Exit::Done)
}

/// Makes the ledger, if there is none, and enters the first king.
async fn enter(config: &ValidatorConfig, model: ModelRef) -> Result<KingRow> {
    let state = config.state();
    std::fs::create_dir_all(&state).map_err(|error| Error::io("enter the first king", &state, error))?;
    Ledger::open(&config.ledger())?.begin_reign(model, now_ms()).await
}

/// Begins another competition.
pub(super) async fn reset(arguments: &Again, cx: &CallContext) -> Result<Exit> {
    let Again { version, genesis, reason, changing } = arguments;
    let config = changing.which.config()?;
    let ledger = changing.open(&config).map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.with_hint(format!(
            "no competition has begun: enter the first king with `albedo validator genesis MODEL{}`",
            changing.which.again()
        )),
        _ => error,
    })?;
    let present = ledger.competition().await?;
    if present.version == *version && present.id > 1 {
        let king = ledger.first_king().await?;
        return done(arguments, Became::Already, &ledger.ends().await?, king.map(|king| king.model));
    }
    let first = match (genesis, configured(&config)?) {
        (Some(named), _) => model(named)?,
        (None, Some(configured)) => configured,
        (None, None) => match ledger.first_king().await? {
            Some(king) => king.model,
            None => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "begin another competition",
                    "nobody reigns yet",
                )
                .with_fault(Fault::Operator)
                .with_hint(format!(
                    "enter the first king: `albedo validator genesis MODEL{}`",
                    changing.which.again()
                )));
            }
        },
    };
    if let Some(other) = configured(&config)?.filter(|other| !is_same_model(other, &first)) {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "begin another competition",
            "the configuration names another first king",
        )
        .with_fault(Fault::Operator)
        .with("key", "genesis")
        .with("configuration", other)
        .with("named", &first)
        .with_hint("change `genesis` in the configuration first, or remove it"));
    }
    looked_at(&config, &first, cx).await?;
    let reset = Reset { version: *version, genesis: first.clone(), reason: reason.clone() };
    reset.check(&present)?;
    let (became, ended) = if changing.yes {
        (Became::Done, ledger.reset(reset, now_ms()).await?)
    } else {
        (Became::Preview, ledger.ends().await?)
    };
    done(arguments, became, &ended, Some(first))
}

/// Says what `reset` did, or would do.
fn done(arguments: &Again, became: Became, ended: &Ends, first: Option<ModelRef>) -> Result<Exit> {
    let Again { version, reason, changing, .. } = arguments;
    let Ends { competition, king, set_aside, abandoned } = ended;
    let ids: Vec<_> = set_aside.iter().map(|row| row.id).collect();
    if became == Became::Already {
        if changing.json {
            print_json(
                &json!({ "became": became, "version": format!("v{version}"), "first_king": first.map(|first| first.to_string()),
                "ended": null, "reign": null, "set_aside": [], "abandoned": null }),
            )?;
        } else {
            print(&format!(
                "competition {}, v{version}, has begun already: nothing to do\n",
                competition.id
            ))?;
        }
        return Ok(Exit::Done);
    }
    if changing.json {
        print_json(
            &json!({ "became": became, "version": format!("v{version}"), "first_king": first.map(|first| first.to_string()),
            "ended": competition, "reign": king.as_ref().map(|king| king.id), "set_aside": ids, "abandoned": abandoned }),
        )?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut text = String::new();
    let verb = if became == Became::Done { "ended" } else { "would end" };
    text += &look.entry(
        verb,
        &format!("competition {}, commitments v{}: {reason}", competition.id, competition.version),
    );
    if let Some(king) = king {
        let whose = king.hotkey.as_ref().map_or("the first", |hotkey| hotkey.0.as_str());
        text += &look
            .entry("reign", &format!("of king {}, {whose}: it and the kings before earn no more", king.id));
    }
    text += &look.entry("set aside", &format!("{} submissions without an outcome", ids.len()));
    if let Some(attempt) = abandoned {
        text += &look.entry("abandoned", &format!("attempt {attempt}, which is open: its share stays spent"));
    }
    if let Some(first) = first {
        text += &look.entry("first king", &format!("{first}: it earns nothing"));
    }
    text += &look.entry("begins", &format!("competition {}, commitments v{version}", competition.id + 1));
    text += &look.entry("stays", "every outcome, attempt and king, the log of duels, and what is published");
    print(&text)?;
    changing.say(became);
    Ok(Exit::Done)
}
