//! The reply defence on real work: every recorded reply of the demo pack.

use albedo::backends::openai::scripted::{Answer, ScriptedServer};
use albedo::judges::defence::{Budget, Defence, View};
use albedo::prelude::*;
use albedo::twin::Twin;
use albedo::{Candidate, FinishReason, Message, MessageRole};
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

/// What twins cost where every reply is honest: two questions about each reply of a drawn sample whose twin is shown
/// otherwise, and about each that a judge suspects. A sample has four questions per two judges, two per judge.
#[tokio::test]
async fn twins_add_few_questions_about_recorded_replies() {
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("links"));
    let path = crate::run::demo().join("tasks");
    let tasks =
        registry.build::<dyn TaskSource>("parquet", json!({ "path": path }), &cx).await.expect("opens");
    let server = ScriptedServer::start(|_| Answer::models(&["m"])).await.expect("starts");
    let backend = json!({ "name": "openai", "base_url": server.base_url(), "stream": false });
    for (rubric, differing, suspected) in [("pairwise-5", 0, 0), ("grounding", 1450, 0)] {
        let settings = json!({ "model": "m", "rubric": rubric, "backend": backend });
        let judge = registry.build::<dyn Judge>("chat", settings, &cx).await.expect("builds");
        let (mut replies, mut found) = (0.0, [0, 0]);
        for row in 0..tasks.info().rows {
            let task = tasks.row(row, &cx).await.expect("reads");
            for (place, message) in task.messages.iter().enumerate() {
                if message.role != MessageRole::Assistant {
                    continue;
                }
                replies += 1.0;
                let reply = Candidate::new(message.content.as_str(), FinishReason::Stop);
                // Another reply was recorded: what it has is known to the twin.
                let recorded = "THOUGHT: I look at the files first.\n\n```bash\nls\n```";
                let asked = Comparison::new(&task.messages[..place], recorded, reply.clone(), reply);
                if let Some(Twin { suspected, .. }) = judge.twin(&asked, 1).expect("makes twins") {
                    found[0] += 1;
                    found[1] += usize::from(suspected);
                }
            }
        }
        let added = f64::from(u32::try_from(found[0]).expect("few")) / replies / 8.0
            + 2.0 * f64::from(u32::try_from(found[1]).expect("few")) / replies;
        println!("{rubric}: {found:?} of {replies} replies: {:.1} % more questions", 100.0 * added);
        assert_eq!(found, [differing, suspected], "{rubric}");
        assert!(added <= 0.15, "{rubric}: {added}");
    }
}
