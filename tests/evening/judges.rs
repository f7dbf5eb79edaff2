//! A chat server as a judge: it prefers the reply that is more like what somebody did in the
//! demo's tasks. It answers nobody before the test switches it on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use albedo::MessageRole;
use albedo::backends::openai::scripted::{Act, Answer, ScriptedServer};
use albedo::prelude::*;
use serde_json::json;
use tokio::sync::Notify;

use crate::question::Question;
use crate::run::demo;

/// The model's name.
const MODEL: &str = "scripted";

pub(crate) struct Judges {
    server: ScriptedServer,
    answers: Arc<AtomicBool>,
    released: Arc<Notify>,
}

/// The words of what the demo's tasks recorded, reply by reply.
async fn recorded() -> Vec<BTreeSet<String>> {
    let (cx, registry) = (CallContext::new(), Registry::linked().expect("links"));
    let plugins = BuildContext::new(&registry, &cx).relative_to(demo());
    let tasks = plugins.build::<dyn TaskSource>("parquet", json!({ "path": "tasks" })).await;
    let tasks = tasks.expect("opens");
    let mut replies = Vec::new();
    for row in 0..tasks.info().rows {
        let messages = tasks.row(row, &cx).await.expect("reads").messages;
        let recorded = messages.into_iter().filter(|message| message.role == MessageRole::Assistant);
        replies.extend(recorded.map(|message| words(&message.content)));
    }
    replies
}

fn words(text: &str) -> BTreeSet<String> {
    let parts = text.split(|character: char| !character.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
}

/// The largest share of words that `reply` has in common with a recorded one.
fn likeness(reply: &str, recorded: &[BTreeSet<String>]) -> f64 {
    let reply = words(reply);
    let shares = recorded.iter().map(|other| {
        let common = reply.intersection(other).count() as f64;
        common / ((reply.len() + other.len()) as f64 - common).max(1.0)
    });
    shares.fold(0.0, f64::max)
}

impl Judges {
    pub(crate) async fn start() -> Self {
        let recorded = recorded().await;
        let (answers, released) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let (answering, release) = (Arc::clone(&answers), Arc::clone(&released));
        let server = ScriptedServer::start(move |seen| {
            if seen.path.ends_with("/models") {
                return Answer::models(&[MODEL]);
            }
            let question = Question::read(seen);
            assert_eq!(question.model, MODEL);
            let [first, second] = [&question.first, &question.second].map(|reply| likeness(reply, &recorded));
            let word = match first - second {
                0.02.. => "first",
                ..-0.02 => "second",
                _ => "tie",
            };
            let answer = question.answer(word);
            if answering.load(Ordering::SeqCst) {
                return Answer::reply(&answer);
            }
            let body = json!({
                "choices": [{ "index": 0, "message": { "role": "assistant", "content": answer }, "finish_reason": "stop" }],
                "usage": { "prompt_tokens": 7, "completion_tokens": 7 },
            });
            let held = Answer::raw("application/json", " ").act(Act::Wait(Arc::clone(&release)));
            held.act(Act::Send(body.to_string().into_bytes()))
        });
        Self { server: server.await.expect("starts"), answers, released }
    }

    /// The judge as a configuration names it.
    pub(crate) fn settings(&self) -> String {
        format!(
            "{{ name = \"chat\", label = \"{MODEL}\", model = \"{MODEL}\", backend = {{ name = \"openai\", base_url = \"{}\", stream = false, price = {{ prompt_usd = 1.0, completion_usd = 1.0 }} }} }}",
            self.server.base_url(),
        )
    }

    /// It answers from now on.
    pub(crate) fn answer(&self) {
        self.answers.store(true, Ordering::SeqCst);
    }

    /// Lets those go on that wait for an answer although it answers.
    pub(crate) fn nudge(&self) {
        if self.answers.load(Ordering::SeqCst) {
            self.released.notify_waiters();
        }
    }

    /// Questions so far.
    pub(crate) fn asked(&self) -> usize {
        self.server.seen().iter().filter(|seen| seen.path.ends_with("/chat/completions")).count()
    }
}
