use async_trait::async_trait;
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

    async fn build(_: FakeConfig, _: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(Self(Identity::new(Self::NAME, "1", &json!({}))?)))
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
    assert!(error.to_string().contains("unknown field `dept`"), "{error}");
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
