//! What a submission is screened with, and beside whom.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::hubs::CheckedHubs;
use super::profiles::{SCREEN_PROFILE, screen_profile};
use super::wire::{DEFAULT_BACKEND, build_all};
use super::{DuelConfig, ModelConfig};
use crate::backends::files::FolderFiles;
use crate::registry::CheckContext;
use crate::{
    Admit, BuildContext, Error, ErrorKind, ModelBackend, ModelHub, ModelRef, ModelSource, Models,
    PluginConfig, Probes, Registry, Result, Screen, ScreenProfile, Side,
};

/// The screens of a configuration that names neither screens nor a profile, in order: those
/// of the profile [`SCREEN_PROFILE`].
pub fn default_screens() -> Vec<PluginConfig<dyn Screen>> {
    screen_profile(SCREEN_PROFILE).unwrap_or_default()
}

/// An admission of a model's folder: what is screened, beside whom, by what.
#[derive(Debug, Clone)]
pub struct AdmissionConfig {
    /// The king: in a folder or in a hub, as the next two.
    pub king: ModelRef,
    /// The submission.
    pub submission: ModelRef,
    /// The model that all others are aligned to; the king if absent.
    pub anchor: Option<ModelRef>,
    /// The hubs that the models' references name, with their settings.
    pub hubs: Vec<PluginConfig<dyn ModelHub>>,
    /// The screens, in order.
    pub screens: Vec<PluginConfig<dyn Screen>>,
    /// The profile that the screens are of, whose thresholds nobody changed: it is recorded
    /// with the admission.
    pub profile: Option<String>,
    /// The backend that runs the submission at the behaviour stage.
    pub backend: PluginConfig<dyn ModelBackend>,
    /// What probes of its behaviour follow from; without one there is no
    /// behaviour stage.
    pub probe: Option<u64>,
    /// Labels of the screens' stores that are the submission's own.
    pub own: Vec<String>,
    /// The submission's folder holds what was handed in, whole: its digests were
    /// compared. A hub says so itself.
    pub complete: bool,
    /// Relative paths are taken from here.
    pub folder: PathBuf,
}

impl AdmissionConfig {
    /// The admission of `submission` beside `king` by the default screens, without
    /// a behaviour stage.
    pub fn new(king: impl Into<ModelRef>, submission: impl Into<ModelRef>) -> Self {
        Self {
            king: king.into(),
            submission: submission.into(),
            anchor: None,
            hubs: Vec::new(),
            screens: default_screens(),
            profile: Some(SCREEN_PROFILE.to_owned()),
            backend: PluginConfig::named(DEFAULT_BACKEND),
            probe: None,
            own: Vec::new(),
            complete: false,
            folder: PathBuf::new(),
        }
    }

    /// Gives `value` to every screen that has a setting `key`, for example the
    /// `store` of those that remember earlier submissions.
    pub fn set(&mut self, key: &str, value: &Value, registry: &Registry) {
        let plugins = registry.list();
        for screen in &mut self.screens {
            let known = plugins.iter().find(|plugin| plugin.role == "screen" && plugin.name == screen.name());
            if known.is_some_and(|plugin| plugin.schema["properties"].get(key).is_some()) {
                *screen = screen.clone().with(key, value.clone());
            }
        }
    }

    /// Checks every setting and builds what admission takes.
    ///
    /// # Errors
    /// Whatever is wrong with the settings or with the files that the screens name;
    /// a model that cannot be listed or has no file; what its hub meets.
    pub async fn admit(&self, cx: &BuildContext<'_>) -> Result<Admit> {
        let cx = &cx.relative_to(&self.folder);
        let check = CheckContext::new(cx.registry());
        let screens = check.plugins("screens", &self.screens)?;
        let backend = self.probe.map(|seed| Ok::<_, Error>((seed, check.plugin("backend", &self.backend)?)));
        let backend = backend.transpose()?;

        let named = [
            ("king", Some(&self.king)),
            ("challenger", Some(&self.submission)),
            ("anchor", self.anchor.as_ref()),
        ];
        let named = named.into_iter().filter_map(|(key, model)| Some((key, model?)));
        let hubs = CheckedHubs::check(&self.hubs, named, &check)?.build(cx).await?;

        let submission = match &self.submission {
            ModelRef::Folder(folder) if self.complete => {
                Arc::new(FolderFiles::new(cx.path(folder)).published())
            }
            model => hubs.files(model, cx).await.map_err(|error| error.charged_to(|_| Side::Challenger))?,
        };
        let king = hubs.files(&self.king, cx).await.map_err(|error| error.charged_to(|_| Side::King))?;
        let mut models = Models::new(king, submission);
        if let Some(anchor) = self.anchor.as_ref().filter(|anchor| **anchor != self.king) {
            models.anchor = Some(hubs.files(anchor, cx).await?);
        }
        // Wrong paths are the configuration's, not a finding.
        for files in [&models.submission, &models.king].into_iter().chain(&models.anchor) {
            if files.list(cx.call()).await?.is_empty() {
                return Err(Error::new(ErrorKind::NotFound, "screen a model", "a folder is empty")
                    .with_hint("give the folders of two models"));
            }
        }
        let reference = |model: &ModelRef| match model {
            ModelRef::Hub(reference) => Some(reference.clone()),
            _ => None,
        };
        let screens = build_all(screens, cx).await?;
        let profile = self.profile.as_ref().map(|name| ScreenProfile::new(name, &screens)).transpose()?;
        let mut admit = Admit::new(screens, models)
            .with_own(self.own.iter())
            .with_references(reference(&self.king), reference(&self.submission));
        if let Some(profile) = profile {
            admit = admit.with_profile(profile);
        }
        if let Some((seed, backend)) = backend {
            let backend = backend.build(cx).await?;
            let model = hubs.for_backend(&*backend, &self.submission, cx).await;
            let model = model.map_err(|error| error.charged_to(|_| Side::Challenger))?;
            let king = hubs.for_backend(&*backend, &self.king, cx).await;
            let king = king.map_err(|error| error.charged_to(|_| Side::King))?;
            let model = ModelSource::new(model).with_text_from(king.clone());
            admit = admit.with_probes(Probes { backend, model, seed }).with_king(ModelSource::new(king));
        }
        Ok(admit)
    }
}

impl DuelConfig {
    /// The admission of this duel's challenger, on the backend that the duel gives
    /// it.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if a model is only served: screens read its
    /// files.
    pub fn admission(&self) -> Result<AdmissionConfig> {
        let read = |key: &'static str, model: &ModelConfig| {
            let model = model.model().map_err(|error| error.under(key))?;
            if let ModelRef::Served(_) = model {
                let message = "the model is only served, and screens read its files";
                let error = Error::new(ErrorKind::ConfigInvalid, "screen a model", message).with("key", key);
                return Err(error.with_hint("name the model with `path` or `ref`"));
            }
            Ok(model)
        };
        let backend = self.challenger.backend.as_ref().or(self.backend.as_ref());
        let mut admission =
            AdmissionConfig::new(read("king", &self.king)?, read("challenger", &self.challenger)?);
        admission.anchor = self.anchor.as_ref().map(|anchor| read("anchor", anchor)).transpose()?;
        self.check_profile()?;
        if let Some(name) = &self.screen_profile {
            admission.screens = screen_profile(name)?;
            admission.profile = Some(name.clone());
        } else if let Some(screens) = &self.screens {
            admission.screens.clone_from(screens);
            admission.profile = None;
        }
        admission.backend = backend.cloned().unwrap_or(admission.backend);
        admission.hubs.clone_from(&self.hubs);
        admission.folder.clone_from(&self.folder);
        Ok(admission)
    }

    /// A configuration names a profile or its screens.
    pub(super) fn check_profile(&self) -> Result<()> {
        if self.screen_profile.is_some() && self.screens.is_some() {
            let message = "name a screen profile or the screens one by one, not both";
            let error = Error::new(ErrorKind::ConfigInvalid, "choose the screens", message);
            return Err(error.with("key", "screen_profile"));
        }
        self.screen_profile.as_deref().map_or(Ok(()), |name| screen_profile(name).map(drop))
    }

    /// Whether the challenger is screened before a duel.
    pub fn is_screened(&self) -> bool {
        self.screen_profile.is_some() || self.screens.as_ref().is_some_and(|screens| !screens.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_setting_goes_to_the_screens_that_have_it() {
        let registry = Registry::linked().expect("a registry");
        let mut config = AdmissionConfig::new(Path::new("king"), Path::new("submission"));
        config.set("store", &json!("the store"), &registry);
        config.set("tasks", &json!({ "name": "parquet" }), &registry);
        let with = |key: &str| {
            let screens = config.screens.iter().filter(|screen| screen.settings().contains_key(key));
            screens.map(PluginConfig::name).collect::<Vec<_>>()
        };
        assert_eq!(with("store"), ["digest", "fingerprint-v2", "lineage", "functional"]);
        assert_eq!(with("tasks"), ["functional", "sanity", "loops", "tail", "injection"]);
    }

    #[test]
    fn a_duels_screens_backend_and_anchor_are_its_admissions() {
        let config = DuelConfig::parse(
            r#"
            judges = []
            king.path = "k"
            challenger.path = "c"
            tasks.name = "parquet"
            anchor.path = "a"
            backend = { name = "burn", device = "cuda:1" }
            screens = [{ name = "lineage", noise = 1.1 }]
            "#,
        );
        let admission = config.expect("reads").admission().expect("folders");
        assert_eq!(admission.backend.settings()["device"], "cuda:1");
        assert_eq!(admission.screens, [PluginConfig::named("lineage").with("noise", 1.1)]);
        assert_eq!(admission.anchor, Some(ModelRef::from(Path::new("a"))));
        let none = DuelConfig::parse("judges=[]\nking.path='k'\nchallenger.path='c'\ntasks.name='t'");
        let admission = none.expect("reads").admission().expect("folders");
        assert_eq!(admission.screens, default_screens());
        assert_eq!(admission.profile.as_deref(), Some(SCREEN_PROFILE));
    }

    #[test]
    fn a_duel_names_a_profile_or_its_screens() {
        let parse = |more: &str| {
            let text = format!("{more}\njudges=[]\nking.path='k'\nchallenger.path='c'\ntasks.name='t'");
            DuelConfig::parse(&text).expect("reads")
        };
        let admission = parse("screen_profile = 'sn97-2026-12'").admission().expect("known");
        assert_eq!(
            (admission.screens, admission.profile.as_deref()),
            (default_screens(), Some(SCREEN_PROFILE))
        );
        let admission = parse("screens = [{ name = 'files' }]").admission().expect("folders");
        assert_eq!((admission.screens.len(), admission.profile), (1, None));
        let both = parse("screen_profile = 'sn97-2026-12'\nscreens = [{ name = 'files' }]").admission();
        assert!(both.expect_err("both").to_string().contains("not both"));
        let error = parse("screen_profile = 'sn97'").admission().expect_err("unknown");
        assert!(error.to_string().contains("there is no screen profile `sn97`"), "{error}");
    }
}
