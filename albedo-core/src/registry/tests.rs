use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::identity::Identity;
use crate::judge::{Assessment, Comparison, JudgeProfile, Metric};

#[derive(Debug)]
struct Fake(Identity);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FakeConfig {
    #[serde(default)]
    _depth: u32,
}

#[async_trait]
impl Judge for Fake {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Protocol])
    }

    async fn compare(&self, _: &Comparison, _: &CallContext) -> Result<Assessment> {
        Ok(Assessment::scored([]))
    }
}

impl Plugin<dyn Judge> for Fake {
    const NAME: &'static str = "protocol";
    const SUMMARY: &'static str = "a fake";
    type Config = FakeConfig;
    type Checked = Self;

    fn check(_: FakeConfig, _: &CheckContext<'_>) -> Result<Self> {
        Ok(Self(Identity::new(Self::NAME, "1", &json!({}))?))
    }

    async fn build(judge: Self, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

fn registry() -> Registry {
    Registry::empty().with(Factory::<dyn Judge>::of::<Fake>("here")).expect("an empty registry takes it")
}

#[test]
fn an_unknown_name_lists_the_known_and_the_nearest() {
    let error = registry().check::<dyn Judge>("protocl", &json!({})).expect_err("no such judge");
    assert_eq!(error.kind(), ErrorKind::UnknownPlugin);
    assert_eq!(error.hint(), Some("did you mean `protocol`? known: protocol"));
}

#[test]
fn an_unknown_key_is_refused_with_its_name() {
    let error = registry().check::<dyn Judge>("protocol", &json!({"dept": 1})).expect_err("no such key");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.to_string().contains("unknown key `dept`"), "{error}");
}

#[test]
fn a_name_can_be_taken_once() {
    let error = registry().with(Factory::<dyn Judge>::of::<Fake>("there")).expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("first: here, second: there"), "{error}");
}

#[tokio::test]
async fn a_plugin_is_built_from_its_settings() {
    let cx = CallContext::new();
    let judge = registry().build::<dyn Judge>("protocol", json!({}), &cx).await.expect("builds");
    assert_eq!(judge.identity().name, "protocol");
}

/// A judge that asks a backend: a plugin that names one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AskConfig {
    backend: PluginConfig<dyn ModelBackend>,
    #[serde(default)]
    more: Vec<PluginConfig<dyn Judge>>,
}

#[derive(Debug)]
struct Ask;

impl Plugin<dyn Judge> for Ask {
    const NAME: &'static str = "ask";
    const SUMMARY: &'static str = "asks";
    type Config = AskConfig;
    type Checked = (Checked<dyn ModelBackend>, Vec<Checked<dyn Judge>>);

    fn check(config: AskConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        Ok((cx.plugin("backend", &config.backend)?, cx.plugins("more", &config.more)?))
    }

    async fn build((backend, _): Self::Checked, cx: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        let backend = backend.build(cx).await?;
        Ok(Arc::new(Fake(backend.identity().clone())))
    }
}

/// A backend that cannot be built.
#[derive(Debug)]
struct Broken;

impl Plugin<dyn ModelBackend> for Broken {
    const NAME: &'static str = "broken";
    const SUMMARY: &'static str = "cannot be built";
    type Config = FakeConfig;
    type Checked = ();

    fn check(_: FakeConfig, _: &CheckContext<'_>) -> Result<()> {
        Ok(())
    }

    async fn build((): (), _: &BuildContext<'_>) -> Result<Arc<dyn ModelBackend>> {
        Err(Error::new(ErrorKind::Unavailable, "build it", "it is broken"))
    }
}

fn nested() -> Registry {
    let registry = Registry::linked().expect("links").with(Factory::<dyn Judge>::of::<Ask>("here"));
    registry
        .and_then(|registry| registry.with(Factory::<dyn ModelBackend>::of::<Broken>("here")))
        .expect("new names")
}

#[test]
fn plugins_that_plugins_name_are_checked_with_the_path() {
    let registry = nested();
    let routes = |inner: Value| json!({ "name": "routes", "order": [{ "name": "broken" }, inner] });
    let judge = |inner: Value| json!({ "backend": { "name": "broken" }, "more": [{ "name": "ask", "backend": routes(inner) }] });
    registry.check::<dyn Judge>("ask", judge(routes(json!({ "name": "broken" })))).expect("no mistake");
    for (inner, words, path) in [
        (
            json!({ "name": "broken", "_dept": 1 }),
            "did you mean `_depth`?",
            "more[0].backend.order[1].order[1]._dept",
        ),
        (json!({ "name": "borken" }), "did you mean `broken`?", "more[0].backend.order[1].order[1]"),
        (json!({ "nam": "broken" }), "`name` is missing", "more[0].backend.order[1].order[1]"),
        (json!({ "name": "routes", "order": [] }), "names no backend", "more[0].backend.order[1].order[1]"),
    ] {
        let error = registry.check::<dyn Judge>("ask", judge(routes(inner))).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.as_str());
        assert!(key.is_some_and(|key| key.starts_with(path)), "{error}");
    }
}

#[tokio::test]
async fn what_cannot_be_built_is_named_with_its_path() {
    let (registry, cx) = (nested(), CallContext::new());
    let settings = json!({ "backend": { "name": "routes", "order": [{ "name": "broken" }] } });
    let error = registry.build::<dyn Judge>("ask", settings, &cx).await.expect_err("is broken");
    assert_eq!(error.to_string(), "failed to build it: it is broken (key: backend.order[0])");
}

#[test]
fn a_schema_has_the_plugins_of_every_role_that_it_names() {
    let schema = nested().schema::<AskConfig>();
    assert_eq!(schema["properties"]["backend"]["$ref"], "#/$defs/backend");
    assert_eq!(schema["$defs"]["judge-ask"]["properties"]["more"]["items"]["$ref"], "#/$defs/judge");
    assert_eq!(schema["$defs"]["backend-routes"]["properties"]["order"]["items"]["$ref"], "#/$defs/backend");
    assert_eq!(schema["$defs"]["backend-broken"]["properties"]["name"], json!({ "const": "broken" }));
    let retry =
        schema["$defs"]["backend-routes"]["properties"]["retry"]["$ref"].as_str().expect("a reference");
    assert!(schema.pointer(retry.trim_start_matches('#')).is_some(), "{retry}");
    assert!(schema["$defs"].get("screen").is_none());
}

#[tokio::test]
async fn record_stores_are_built_by_name() {
    let (registry, call) = (Registry::linked().expect("links"), CallContext::new());
    let folder = tempfile::tempdir().expect("a folder");
    let cx = BuildContext::new(&registry, &call).relative_to(folder.path());
    let build = |resume| cx.build::<dyn RecordStore>("file", json!({ "path": "duel", "resume": resume }));
    drop(build(false).await.expect("creates"));
    assert_eq!(build(false).await.expect_err("it holds a duel").kind(), ErrorKind::Conflict);
    assert!(build(true).await.expect("resumes").stored().await.expect("reads").is_empty());
    cx.build::<dyn RecordStore>("memory", json!({})).await.expect("builds");
    let error = registry.check::<dyn RecordStore>("file", json!({ "path": "" })).expect_err("no path");
    assert!(error.to_string().contains("key: path"), "{error}");
}
