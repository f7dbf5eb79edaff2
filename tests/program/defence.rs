//! The reply defence on real work: every recorded reply of the demo pack.

use albedo::judges::defence::{Budget, Defence, View};
use albedo::prelude::*;
use albedo::{Message, MessageRole};
use serde_json::json;

#[tokio::test]
async fn no_recorded_reply_of_the_demo_pack_is_touched() {
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("links"));
    let path = crate::run::demo().join("tasks");
    let tasks =
        registry.build::<dyn TaskSource>("parquet", json!({ "path": path }), &cx).await.expect("opens");
    let defence = Defence { budget: Budget::default(), fence: "0123456789ab".into(), sign: String::new() };
    let languages = ["bash".to_owned()];
    let mut replies = 0;
    for row in 0..tasks.info().rows {
        let task = tasks.row(row, &cx).await.expect("reads");
        for Message { content, .. } in
            task.messages.iter().filter(|message| message.role == MessageRole::Assistant)
        {
            for view in [View::Whole, View::ThoughtAndAction(&languages)] {
                let shown = defence.reply(content, view);
                assert_eq!(shown.alterations, [], "row {row}: {content}");
                assert_eq!(shown.text, *content);
            }
            let action = defence.reply(content, View::Action(&languages));
            assert!(action.text.starts_with("```bash\n") && content.ends_with(&action.text), "{content}");
            assert_eq!((action.notes, action.alterations), (vec![], vec![]), "{content}");
            replies += 1;
        }
    }
    assert_eq!(replies, 1450);
}
