//! What the screens of the behaviour stage share: each is its settings and what
//! it finds in the replies of a loaded model.

use std::fmt::Debug;
use std::sync::Arc;

use albedo_core::registry::Settings;
use albedo_core::{
    BehaviourScreen, BuildContext, CallContext, CheckContext, Finding, Identity, ModelSession, Plugin,
    Result, Screen, ScreenPart,
};
use async_trait::async_trait;
use serde_json::Value;

/// A probe of a model's behaviour; [`Behaviour`] makes a screen of it.
#[async_trait]
pub(crate) trait Probe: Debug + Sized + Send + Sync + 'static {
    /// As [`Plugin::NAME`].
    const NAME: &'static str;
    /// As [`Plugin::SUMMARY`].
    const SUMMARY: &'static str;
    /// The version of what it finds.
    const VERSION: &'static str;
    /// As [`Plugin::Config`].
    type Config: Settings;
    /// As [`Plugin::Checked`].
    type Checked: Send + 'static;

    /// As [`Plugin::check`].
    fn check(config: Self::Config, cx: &CheckContext<'_>) -> Result<Self::Checked>;

    /// The probe of checked settings.
    async fn build(checked: Self::Checked, cx: &BuildContext<'_>) -> Result<Self>;

    /// The settings that the screen is identified by, without local paths.
    ///
    /// # Errors
    /// None that a caller could cause.
    fn identified(&self) -> Result<Value>;

    /// As [`BehaviourScreen::inspect`].
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding>;
}

/// The screen that a probe is.
#[derive(Debug)]
pub(crate) struct Behaviour<P> {
    identity: Identity,
    probe: P,
}

impl<P: Probe> Screen for Behaviour<P> {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Behaviour(self)
    }
}

#[async_trait]
impl<P: Probe> BehaviourScreen for Behaviour<P> {
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding> {
        self.probe.inspect(session, seed, cx).await
    }
}

impl<P: Probe> Plugin<dyn Screen> for Behaviour<P> {
    const NAME: &'static str = P::NAME;
    const SUMMARY: &'static str = P::SUMMARY;
    type Config = P::Config;
    type Checked = P::Checked;

    fn check(config: P::Config, cx: &CheckContext<'_>) -> Result<P::Checked> {
        P::check(config, cx)
    }

    async fn build(checked: P::Checked, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let probe = P::build(checked, cx).await?;
        Ok(Arc::new(Self { identity: Identity::new(P::NAME, P::VERSION, &probe.identified()?)?, probe }))
    }
}
