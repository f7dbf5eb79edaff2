//! The first king: the ledger's, or the configuration's before it is in the ledger.

use std::sync::Arc;

use super::config::ValidatorConfig;
use super::ledger::Ledger;
use super::models::Models;
use crate::config::ModelConfig;
use crate::{BuildContext, Error, ErrorKind, Fault, ModelFiles, ModelRef, Result};

const OPERATION: &str = "find the first king";

/// A first king whose files were listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Genesis {
    /// Where its files are.
    pub model: ModelRef,
    /// How many they are.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Lists the files of `model`, with the hubs of `config`. Those of a hub stay there.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such model, or it has no files; the hub's.
pub async fn genesis_files(
    config: &ValidatorConfig,
    model: &ModelRef,
    cx: &BuildContext<'_>,
) -> Result<Genesis> {
    let cx = &cx.relative_to(&config.folder);
    let models = Models::build(&config.hubs, &config.entry, cx).await?;
    let files: Arc<dyn ModelFiles> = match model {
        ModelRef::Hub(reference) => Arc::new(models.resolve(reference, cx.call()).await?),
        _ => models.local(model, cx.call()).await?.files(),
    };
    let listed = files.list(cx.call()).await?;
    if listed.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "the model has no files")
            .with_fault(Fault::Operator)
            .with("model", model)
            .with_hint("name the folder or the reference of a whole model"));
    }
    Ok(Genesis {
        model: model.clone(),
        files: listed.len(),
        bytes: listed.iter().map(|file| file.size).sum(),
    })
}

/// Whether both name the same model: the same reference, or the same folder by whatever path.
pub fn is_same_model(one: &ModelRef, other: &ModelRef) -> bool {
    match (one, other) {
        (ModelRef::Folder(one), ModelRef::Folder(other)) if one != other => {
            matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
        }
        _ => one == other,
    }
}

/// The first king: the ledger's, which the configuration may repeat, or the configuration's.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`], the operator's: neither names one, or they differ.
pub(super) async fn first_king(
    config: &ValidatorConfig,
    ledger: Option<&Ledger>,
    cx: &BuildContext<'_>,
) -> Result<ModelRef> {
    let invalid = |message: &str| {
        Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
            .with_fault(Fault::Operator)
            .with("key", "genesis")
    };
    let entered = match ledger {
        Some(ledger) => ledger.first_king().await?.map(|king| king.model),
        None => None,
    };
    let named = config.genesis.as_ref().map(ModelConfig::model).transpose()?;
    match (entered, named.map(|model| cx.model(&model))) {
        (Some(entered), Some(named)) if !is_same_model(&entered, &named) => {
            Err(invalid("the configuration names another first king than the ledger has")
                .with("ledger", entered)
                .with("configuration", named)
                .with_hint(
                    "remove `genesis`, or begin another competition: `albedo validator reset VERSION --genesis MODEL --reason TEXT`",
                ))
        }
        (Some(model), _) | (None, Some(model)) => Ok(model),
        (None, None) => Err(invalid("there is no first king")
            .with_hint("enter one: `albedo validator genesis MODEL`, or name it under `genesis`")),
    }
}
