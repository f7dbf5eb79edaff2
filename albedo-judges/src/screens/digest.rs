//! `digest`: exact copies.
//!
//! A submission is `Rejected` if its weight files have the parameters digest of
//! the king or of an earlier submission, or if all its tensors are the king's,
//! however they are spread over files. A share of equal tensors is evidence
//! only: an honest fine-tune may leave layers as they are.

use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::{
    BuildContext, CallContext, CheckContext, Error, Finding, Identity, Plugin, Result, Screen, ScreenStage,
    Subject,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::evidence::wrong_stage;
use super::measure::{Measurement, Wanted, measure};
use super::store::Store;

/// Settings of [`DigestScreen`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DigestConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// Labels of the store's entries that are the submission's own.
    pub own: Vec<String>,
}

/// Compares digests; see the [module](self).
#[derive(Debug)]
pub struct DigestScreen {
    identity: Identity,
    own: Vec<String>,
    store: Option<Store>,
}

impl DigestScreen {
    /// A screen with `config`, whose relative paths were resolved.
    pub fn new(config: &DigestConfig) -> Result<Self> {
        let store = config.store.as_deref().map(Store::open).transpose()?;
        Ok(Self { identity: Identity::new(Self::NAME, "1", config)?, own: config.own.clone(), store })
    }

    /// The finding on a measured submission beside the measured king.
    ///
    /// # Errors
    /// The store's.
    pub fn judge(&self, submission: &Measurement, king: &Measurement) -> Result<Finding> {
        let (Some(own), Some(kings)) = (submission.parameters, king.parameters) else {
            return Err(Error::bug("compare digests", "none was taken"));
        };
        let equal = |name: &String| submission.tensors.get(name) == king.tensors.get(name);
        let shared = king.tensors.keys().filter(|name| equal(name)).count();
        let evidence = |copy_of: Option<String>| {
            json!({
                "parameters": own,
                "copy_of": copy_of,
                "tensors": submission.tensors.len(),
                "equal_to_the_kings": shared,
            })
        };
        let all = shared == king.tensors.len() && shared == submission.tensors.len() && shared > 0;
        if own == kings || all {
            return Ok(Finding::Rejected(evidence(Some("the king".into()))));
        }
        let stored = self.store.as_ref().map(|store| store.by_parameters(own)).transpose()?.flatten();
        if let Some(entry) = stored.filter(|entry| !self.own.contains(&entry.label)) {
            return Ok(Finding::Rejected(evidence(Some(entry.label))));
        }
        Ok(Finding::Clear(evidence(None)))
    }
}

#[async_trait]
impl Screen for DigestScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stage(&self) -> ScreenStage {
        ScreenStage::Parameters
    }

    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> Result<Finding> {
        let Subject::Parameters { submission, king } = subject else {
            return Err(wrong_stage(Self::NAME, self.stage(), &subject));
        };
        let wanted = Wanted { digest: true, tensors: true, ..Wanted::default() };
        let [submission, king] = [measure(submission, &wanted, cx).await?, measure(king, &wanted, cx).await?];
        self.judge(&submission, &king)
    }
}

impl Plugin<dyn Screen> for DigestScreen {
    const NAME: &'static str = "digest";
    const SUMMARY: &'static str = "exact copies of the king or of an earlier submission";
    type Config = DigestConfig;
    type Checked = DigestConfig;

    fn check(config: DigestConfig, _: &CheckContext<'_>) -> Result<DigestConfig> {
        Ok(config)
    }

    async fn build(mut config: DigestConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        config.store = config.store.map(|path| cx.path(path));
        Ok(Arc::new(Self::new(&config)?))
    }
}

albedo_core::register!(dyn Screen => DigestScreen);

#[cfg(test)]
mod tests;
