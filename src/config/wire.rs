//! How the parts that a duel's configuration names are put together. Nothing else does it.

use std::sync::Arc;

use super::duel::label;
use super::hubs::{CheckedHubs, Hubs};
use super::{DuelConfig, ModelConfig};
use crate::registry::{CheckContext, Checked};
use crate::{
    BuildContext, Contestant, Duel, DuelBuilder, Error, ErrorKind, Judge, ModelBackend, ModelRef,
    ModelSource, PluginConfig, Registry, Result, Role, Side, TaskSource,
};

/// What runs both sides where the file does not say.
pub(crate) const DEFAULT_BACKEND: &str = "burn";

/// The plugins of a duel's configuration, checked.
#[derive(Debug)]
pub(super) struct CheckedDuel {
    hubs: CheckedHubs,
    backends: Backends,
    tasks: Checked<dyn TaskSource>,
    judges: Vec<Checked<dyn Judge>>,
}

/// What runs the two sides.
#[derive(Debug)]
enum Backends {
    /// One backend, so that what it shares between models is shared.
    Shared(Checked<dyn ModelBackend>),
    /// The king's and the challenger's.
    Each([Checked<dyn ModelBackend>; 2]),
}

impl DuelConfig {
    pub(super) fn checked(&self, registry: &Registry) -> Result<CheckedDuel> {
        self.duel.check().map_err(|error| error.under("duel"))?;
        if let Some(canaries) = &self.duel.canaries {
            canaries.check_panel(self.judges.len()).map_err(|error| error.under("duel.canaries"))?;
        }
        let cx = CheckContext::new(registry);
        let hubs = self.checked_hubs(&cx)?;
        self.check_panel()?;
        self.check_profile()?;
        cx.plugins("screens", self.screens.as_deref().unwrap_or_default())?;
        Ok(CheckedDuel {
            hubs,
            backends: self.checked_backends(&cx)?,
            tasks: cx.plugin("tasks", &self.tasks)?,
            judges: cx.plugins("judges", &self.judges)?,
        })
    }

    /// A panel has a judge, and none twice. Two whose settings are written otherwise
    /// and mean the same are found when they are built.
    fn check_panel(&self) -> Result<()> {
        let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, "check the panel", message);
        if self.judges.is_empty() {
            let error = invalid("there is no judge".into()).with("key", "judges");
            return Err(error.with_hint("name at least one: a table `[[judges]]`"));
        }
        for (place, judge) in self.judges.iter().enumerate() {
            if self.judges[..place].contains(judge) {
                let error = invalid(format!("judge `{}` is on the panel twice", label(judge)));
                let error = error.with("key", format!("judges[{place}]"));
                return Err(error.with_hint("one judge is one voice: remove one"));
            }
        }
        Ok(())
    }

    fn checked_hubs(&self, cx: &CheckContext<'_>) -> Result<CheckedHubs> {
        let model = |key, model: &ModelConfig| model.model().map_err(|error| error.under(key));
        let mut models = vec![
            ("king", model("king", &self.king)?),
            ("challenger", model("challenger", &self.challenger)?),
        ];
        if let Some(anchor) = &self.anchor {
            models.push(("anchor", model("anchor", anchor)?));
        }
        CheckedHubs::check(&self.hubs, models.iter().map(|(key, model)| (*key, model)), cx)
    }

    /// The backends, each of which loads its side's model as the file names it.
    fn checked_backends(&self, cx: &CheckContext<'_>) -> Result<Backends> {
        let backends = self.named_backends(cx)?;
        let (king, challenger) = match &backends {
            Backends::Shared(shared) => (shared, shared),
            Backends::Each([king, challenger]) => (king, challenger),
        };
        for (key, side, backend) in [("king", &self.king, king), ("challenger", &self.challenger, challenger)]
        {
            let model = side.model().map_err(|error| error.under(key))?;
            backend.check_model(&model).map_err(|error| error.under(key).with("backend", backend.name()))?;
        }
        Ok(backends)
    }

    fn named_backends(&self, cx: &CheckContext<'_>) -> Result<Backends> {
        let own = |key: &str, model: &ModelConfig| match &model.backend {
            Some(own) => cx.plugin(format_args!("{key}.backend"), own).map(Some),
            None => Ok(None),
        };
        let sides = (own("king", &self.king)?, own("challenger", &self.challenger)?);
        if let (Some(king), Some(challenger)) = sides {
            if self.backend.is_some() {
                let operation = "check the sides' backends";
                return Err(Error::new(ErrorKind::ConfigInvalid, operation, "no side uses it")
                    .with("key", "backend")
                    .with_hint("leave it out, or the backend of one side"));
            }
            return Ok(Backends::Each([king, challenger]));
        }
        let shared = match &self.backend {
            Some(shared) => cx.plugin("backend", shared)?,
            None => cx.plugin("backend", &PluginConfig::named(DEFAULT_BACKEND))?,
        };
        Ok(match sides {
            (Some(king), _) => Backends::Each([king, shared]),
            (None, Some(challenger)) => Backends::Each([shared, challenger]),
            (None, None) => Backends::Shared(shared),
        })
    }

    /// Checks every setting and builds every part: what
    /// [`plan`](DuelBuilder::plan) freezes. Relative paths are taken from
    /// [`DuelConfig::folder`]. Names and settings are checked before any model is
    /// loaded.
    ///
    /// # Errors
    /// Whatever is wrong with the settings, the files that they name, or one
    /// side's model.
    pub async fn builder(&self, cx: &BuildContext<'_>) -> Result<DuelBuilder> {
        let cx = cx.relative_to(&self.folder);
        let CheckedDuel { hubs, backends, tasks, judges } = self.checked(cx.registry())?;
        let tasks = tasks.build(&cx).await?;
        let mut panel = Vec::with_capacity(judges.len());
        for (judge, label) in judges.into_iter().zip(self.judge_labels()) {
            let built: Arc<dyn Judge> = judge.build(&cx).await.map_err(|error| error.with("judge", label))?;
            panel.push(built);
        }
        let [king, challenger] = self.load(hubs, backends, &cx).await?;
        let builder = Duel::builder(king, challenger).tasks(tasks).judges(panel);
        Ok(builder.settings(self.duel.clone()).build(crate::build()))
    }

    /// Loads both contestants, at once; a model that duels itself once. Of two that fail,
    /// the king's error is answered.
    ///
    /// # Errors
    /// Whatever is wrong with the backends' settings or one side's model.
    pub async fn contestants(&self, cx: &BuildContext<'_>) -> Result<[Contestant; 2]> {
        let check = CheckContext::new(cx.registry());
        let (hubs, backends) = (self.checked_hubs(&check)?, self.checked_backends(&check)?);
        self.load(hubs, backends, &cx.relative_to(&self.folder)).await
    }

    async fn load(
        &self,
        hubs: CheckedHubs,
        backends: Backends,
        cx: &BuildContext<'_>,
    ) -> Result<[Contestant; 2]> {
        let hubs = hubs.build(cx).await?;
        let [kings, challengers] = match backends {
            Backends::Shared(backend) => {
                let backend = backend.build(cx).await?;
                [Arc::clone(&backend), backend]
            }
            Backends::Each([king, challenger]) => [king.build(cx).await?, challenger.build(cx).await?],
        };
        let source = |model: ModelRef, text: ModelRef, parameters| {
            // A server keeps its tokenizer to itself: a model that runs here has its own.
            let shared = !matches!(text, ModelRef::Served(_)) || matches!(model, ModelRef::Served(_));
            let source = ModelSource { parameters, ..ModelSource::new(model) };
            if shared { source.with_text_from(text) } else { source }
        };
        let text = found(&hubs, &kings, Side::King, &self.king, cx).await?;
        let king = source(text.clone(), text, self.king.parameters);
        if self.challenger == self.king {
            let king = load(Side::King, &kings, &king, cx).await?;
            return Ok([king.clone(), king]);
        }
        let text = found(&hubs, &challengers, Side::King, &self.king, cx).await?;
        let challenger = found(&hubs, &challengers, Side::Challenger, &self.challenger, cx).await?;
        let challenger = source(challenger, text, self.challenger.parameters);
        // At once: most of a load is reading and digesting files.
        let (king, challenger) =
            (load(Side::King, &kings, &king, cx), load(Side::Challenger, &challengers, &challenger, cx));
        let (king, challenger) = futures::future::join(king, challenger).await;
        Ok([king?, challenger?])
    }
}

/// The model of `side` as `backend` takes it.
async fn found(
    hubs: &Hubs,
    backend: &Arc<dyn ModelBackend>,
    side: Side,
    model: &ModelConfig,
    cx: &BuildContext<'_>,
) -> Result<ModelRef> {
    let found = hubs.for_backend(&**backend, &model.model()?, cx).await;
    found.map_err(|error| error.charged_to(|_| side))
}

/// Loads a contestant; says of a folder that is not there what else can name a model.
async fn load(
    side: Side,
    backend: &Arc<dyn ModelBackend>,
    source: &ModelSource,
    cx: &BuildContext<'_>,
) -> Result<Contestant> {
    Contestant::load(side, backend, source, cx.call()).await.map_err(|error| match &source.model {
        ModelRef::Folder(folder) if error.kind() == ErrorKind::NotFound && !folder.exists() => error.with_hint(
            "check the path, a folder on this machine; `name` names a model at a server, `ref` one in a hub",
        ),
        _ => error,
    })
}

pub(super) async fn build_all<R: ?Sized + Role>(
    plugins: Vec<Checked<R>>,
    cx: &BuildContext<'_>,
) -> Result<Vec<Arc<R>>> {
    let mut built = Vec::with_capacity(plugins.len());
    for plugin in plugins {
        built.push(plugin.build(cx).await?);
    }
    Ok(built)
}
