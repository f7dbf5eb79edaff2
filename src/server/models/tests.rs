use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::testing::{ScriptedBackend, ScriptedSession, identity, model_info};
use crate::{Build, CheckContext, PluginConfig, Registry};

/// Models of the folders `names`, one of which is loaded at a time, and the number of
/// loads so far.
async fn models(names: &[&str], mirror: &Path, cache: &Path) -> (Models, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let backend = ScriptedBackend::new("scripted", move |source| {
        counted.fetch_add(1, Ordering::Relaxed);
        let folder = source.model.require_folder("load")?;
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        Ok(Arc::new(ScriptedSession::saying(&name, &name).with_model(model_info(&name))))
    });
    (models_of(backend, names, mirror, cache).await, loads)
}

/// Models of `backend` in the folders `names`, one of which is loaded at a time.
pub(in crate::server) async fn models_of(
    backend: ScriptedBackend,
    names: &[&str],
    mirror: &Path,
    cache: &Path,
) -> Models {
    let (registry, cx) = (Registry::linked().expect("a registry"), CallContext::new());
    let hub = PluginConfig::named("folder").with("path", mirror.to_str().expect("UTF-8"));
    let hubs = crate::config::CheckedHubs::check(&[hub], [], &CheckContext::new(&registry)).expect("checked");
    let configured = names.iter().map(|name| Configured {
        name: (*name).to_owned(),
        model: ModelRef::from(Path::new(name)),
        parameters: None,
        text_from: None,
    });
    Models(Arc::new(Inner {
        backend: Arc::new(backend),
        engine: EngineIdentity { backend: identity("scripted"), build: Build::default(), device: None },
        hubs: hubs.build(&BuildContext::new(&registry, &cx)).await.expect("built"),
        cache: Cache::new(cache),
        configured: configured.collect(),
        most_loaded: 1,
        metrics: Metrics::new().expect("metrics"),
        shelf: Mutex::default(),
        loading: tokio::sync::Mutex::default(),
    }))
}

/// The session of the model that requests name `name`, and what it is.
async fn named(models: &Models, name: &str, cx: &CallContext) -> Result<(SessionKey, Arc<dyn ModelSession>)> {
    let key = models.key_of(name)?;
    Ok((key, models.session(key, cx).await?))
}

fn states(models: &Models) -> Vec<(String, ModelState)> {
    models.list().into_iter().map(|model| (model.name, model.state)).collect()
}

#[tokio::test]
async fn a_model_takes_the_place_of_another_once_that_is_idle() {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, loads) = models(&["a", "b"], folder.path(), folder.path()).await;
    let cx = CallContext::new();
    assert_eq!(named(&models, "a", &cx).await.expect_err("not yet").kind(), ErrorKind::Unavailable);
    assert_eq!(named(&models, "c", &cx).await.expect_err("never").kind(), ErrorKind::NotFound);
    models.open(&cx).await.expect("opens");
    let state = |state| ["a", "b"].map(str::to_owned).into_iter().zip(state).collect::<Vec<_>>();
    assert_eq!(states(&models), state([ModelState::Held, ModelState::Loaded]));

    let (_, a) = named(&models, "a", &cx).await.expect("loads");
    assert_eq!((loads.load(Ordering::Relaxed), a.model().parameters), (3, model_info("a").parameters));
    let waiting = named(&models, "b", &cx);
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures::poll!(&mut waiting).is_pending(), "`a` is in use");
    drop(a);
    let (key, b) = waiting.await.expect("loads");
    assert_eq!(key.parameters, model_info("b").parameters);
    assert_eq!(states(&models), state([ModelState::Held, ModelState::Loaded]));
    // What is loaded is shared.
    let (_, again) = named(&models, "b", &cx).await.expect("is loaded");
    assert!(Arc::ptr_eq(&b, &again) && loads.load(Ordering::Relaxed) == 4);
}

#[tokio::test]
async fn a_wait_that_is_given_up_costs_nobody_a_load() {
    let folder = tempfile::tempdir().expect("a folder");
    let (models, loads) = models(&["a", "b"], folder.path(), folder.path()).await;
    let cx = CallContext::new();
    models.open(&cx).await.expect("opens");
    let (_, b) = named(&models, "b", &cx).await.expect("is loaded");
    let given_up = cx.child();
    {
        let waiting = named(&models, "a", &given_up);
        let mut waiting = std::pin::pin!(waiting);
        assert!(futures::poll!(&mut waiting).is_pending());
        given_up.cancel();
        assert_eq!(waiting.await.expect_err("given up").kind(), ErrorKind::Cancelled);
    }
    let (_, again) = named(&models, "b", &cx).await.expect("is still there");
    assert!(Arc::ptr_eq(&b, &again) && loads.load(Ordering::Relaxed) == 2);
}

#[tokio::test]
async fn a_model_of_a_hub_is_held_under_a_label_until_that_is_released() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mirror, cache) = (folder.path().join("mirror"), folder.path().join("cache"));
    let files = [("config.json", "{}"), ("model.safetensors", "weights")];
    let lines = files.map(|(name, bytes)| format!("{}  {name}\n", Digest::of(bytes)));
    let pinned = Digest::of(lines.concat());
    let published = mirror.join("owner/model").join(pinned.to_string());
    std::fs::create_dir_all(&published).expect("a folder");
    std::fs::write(published.join("SHA256SUMS"), lines.concat()).expect("writes");
    for (name, bytes) in files {
        std::fs::write(published.join(name), bytes).expect("writes");
    }
    let reference: HubRef = format!("folder:owner/model@sha256:{pinned}").parse().expect("a reference");

    let (models, _) = models(&[], &mirror, &cache).await;
    let cx = CallContext::new();
    let held = models.hold(&reference, "challenger", &cx).await.expect("held");
    assert_eq!(held.parameters, Digest::of(&lines[1]), "of the weights alone");
    assert_eq!(states(&models), [(reference.to_string(), ModelState::Held)]);
    let key = SessionKey { parameters: held.parameters, text_from: None };
    let session = models.session(key, &cx).await.expect("loads");
    // Again under another label: the first may go.
    models.hold(&reference, "next", &cx).await.expect("held");
    models.release("challenger", &cx).await.expect("released");
    assert!(models.is_held(held.parameters));
    models.release("next", &cx).await.expect("released");
    assert!(!models.is_held(held.parameters) && models.list().is_empty());
    // It is given to nobody any more, though one still uses it.
    assert_eq!(models.session(key, &cx).await.expect_err("let go").kind(), ErrorKind::NotFound);
    assert_eq!(session.model().architecture, model_info("any").architecture);

    let other: HubRef = format!("hf:owner/model@{}", "0".repeat(40)).parse().expect("a reference");
    let error = models.hold(&other, "x", &cx).await.expect_err("no such hub here");
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("known: folder"), "{error}");
}
