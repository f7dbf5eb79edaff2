//! What the screens of the behaviour stage share: each is its settings and what
//! it finds in the replies of a loaded model.

use std::fmt::Debug;
use std::sync::Arc;

use albedo_core::{
    BuildContext, CallContext, Finding, Identity, ModelSession, Plugin, Result, Screen, ScreenStage, Subject,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::evidence::wrong_stage;

/// A probe of a model's behaviour; [`Behaviour`] makes a screen of it.
#[async_trait]
pub(crate) trait Probe: Debug + Sized + Send + Sync + 'static {
    /// As [`Plugin::NAME`].
    const NAME: &'static str;
    /// As [`Plugin::SUMMARY`].
    const SUMMARY: &'static str;
    /// As [`Plugin::Config`]; its digest is part of the screen's identity.
    type Config: Serialize + DeserializeOwned + JsonSchema + Send + 'static;

    /// As [`Plugin::check`].
    fn check(config: &Self::Config) -> Result<()>;

    /// The probe of a checked configuration.
    async fn build(config: Self::Config, cx: &BuildContext<'_>) -> Result<Self>;

    /// As [`Screen::inspect`], with a subject of the right stage.
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding>;
}

/// The screen that a probe is.
#[derive(Debug)]
pub(crate) struct Behaviour<P> {
    identity: Identity,
    probe: P,
}

#[async_trait]
impl<P: Probe> Screen for Behaviour<P> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stage(&self) -> ScreenStage {
        ScreenStage::Behaviour
    }

    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> Result<Finding> {
        let Subject::Behaviour { session, seed } = subject else {
            return Err(wrong_stage(P::NAME, self.stage(), &subject));
        };
        self.probe.inspect(session, seed, cx).await
    }
}

impl<P: Probe> Plugin<dyn Screen> for Behaviour<P> {
    const NAME: &'static str = P::NAME;
    const SUMMARY: &'static str = P::SUMMARY;
    type Config = P::Config;

    fn check(config: &P::Config) -> Result<()> {
        P::check(config)
    }

    async fn build(config: P::Config, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let identity = Identity::new(P::NAME, "1", &config)?;
        Ok(Arc::new(Self { identity, probe: P::build(config, cx).await? }))
    }
}
