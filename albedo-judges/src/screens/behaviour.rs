//! What the screens of the behaviour stage share: each is its settings and what
//! it finds in the replies of a loaded model.

use std::fmt::Debug;
use std::sync::Arc;

use albedo_core::registry::Settings;
use albedo_core::{
    BuildContext, CallContext, CheckContext, Finding, Identity, ModelSession, Plugin, Result, Screen,
    ScreenStage, Subject,
};
use async_trait::async_trait;
use serde::Serialize;

use super::evidence::wrong_stage;

/// A probe of a model's behaviour; [`Behaviour`] makes a screen of it.
#[async_trait]
pub(crate) trait Probe: Debug + Sized + Send + Sync + 'static {
    /// As [`Plugin::NAME`].
    const NAME: &'static str;
    /// As [`Plugin::SUMMARY`].
    const SUMMARY: &'static str;
    /// As [`Plugin::Config`]; its digest is part of the screen's identity.
    type Config: Serialize + Settings;
    /// As [`Plugin::Checked`].
    type Checked: Send + 'static;

    /// As [`Plugin::check`].
    fn check(config: Self::Config, cx: &CheckContext<'_>) -> Result<Self::Checked>;

    /// The probe of checked settings.
    async fn build(checked: Self::Checked, cx: &BuildContext<'_>) -> Result<Self>;

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
    type Checked = (Identity, P::Checked);

    fn check(config: P::Config, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        Ok((Identity::new(P::NAME, "1", &config)?, P::check(config, cx)?))
    }

    async fn build((identity, probe): Self::Checked, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        Ok(Arc::new(Self { identity, probe: P::build(probe, cx).await? }))
    }
}
