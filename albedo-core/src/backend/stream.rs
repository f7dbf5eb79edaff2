//! Replies that are shown as they grow.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt};
use serde::{Deserialize, Serialize};

use super::{Completion, GenerateRequest, Generated, Message, Sampling, TokenLogProb, TokenText};
use crate::context::CallContext;
use crate::error::{Error, ErrorKind, Fault, Result};

const STREAM: &str = "stream a reply";

/// One reply to write and to show as it grows.
///
/// ```
/// use albedo_core::{Prompt, Sampling, StreamRequest};
///
/// let request = StreamRequest::new(Prompt::from("The sky is"), 16)
///     .with_sampling(Sampling { temperature: 0.7, ..Sampling::default() })
///     .with_seed(7)
///     .with_log_probs(Some(2));
/// assert_eq!((request.max_new_tokens, request.prompt_log_probs), (16, false));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StreamRequest {
    /// What the reply follows.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The reply is cut after this many tokens. With `prompt_log_probs` it may be 0:
    /// the prompt is read and nothing is written.
    pub max_new_tokens: u32,
    /// Seed of this request's own random stream.
    pub seed: u64,
    /// Also return the log-probability of each token written and of this many of the
    /// likeliest tokens at its place, all under the model's own distribution
    /// (temperature 1, nothing cut off).
    pub log_probs: Option<u8>,
    /// Also return the log-probabilities of the prompt's tokens, and of as many of the
    /// likeliest as `log_probs` says.
    pub prompt_log_probs: bool,
}

impl StreamRequest {
    /// A request for a reply to `prompt` of at most `max_new_tokens` tokens: greedy,
    /// seed 0, without log-probabilities.
    pub fn new(prompt: impl Into<Prompt>, max_new_tokens: u32) -> Self {
        Self {
            prompt: prompt.into(),
            sampling: Sampling::default(),
            max_new_tokens,
            seed: 0,
            log_probs: None,
            prompt_log_probs: false,
        }
    }

    /// Sets how tokens are chosen.
    #[must_use]
    pub fn with_sampling(self, sampling: Sampling) -> Self {
        Self { sampling, ..self }
    }

    /// Sets the largest number of tokens that the reply may have.
    #[must_use]
    pub fn with_max_new_tokens(self, max_new_tokens: u32) -> Self {
        Self { max_new_tokens, ..self }
    }

    /// Sets the seed of the request's random stream.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Asks for the log-probability of each token written, and of this many of the
    /// likeliest tokens at its place.
    #[must_use]
    pub fn with_log_probs(self, likeliest: Option<u8>) -> Self {
        Self { log_probs: likeliest, ..self }
    }

    /// Asks for the log-probabilities of the prompt's tokens, or not.
    #[must_use]
    pub fn with_prompt_log_probs(self, prompt_log_probs: bool) -> Self {
        Self { prompt_log_probs, ..self }
    }

    /// The same request for a session that shows only whole replies.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for what [`GenerateRequest`] has no words for.
    pub fn into_generate(self) -> Result<GenerateRequest> {
        let unsupported = |message| {
            Err(Error::new(ErrorKind::Unsupported, STREAM, message)
                .with_fault(Fault::Operator)
                .with_hint("use a model that runs here, with the backend `burn`"))
        };
        if self.prompt_log_probs {
            return unsupported("the backend has no log-probabilities of a prompt");
        }
        let Prompt::Messages(messages) = self.prompt else {
            return unsupported("the backend reads conversations only, no raw prompt");
        };
        Ok(GenerateRequest::new(messages, self.max_new_tokens)
            .with_sampling(self.sampling)
            .with_seed(self.seed)
            .with_log_probs(self.log_probs))
    }
}

/// What a reply follows.
///
/// ```
/// use albedo_core::{Message, MessageRole, Prompt};
///
/// let chat = Prompt::from([Message::new(MessageRole::User, "Why is the sky blue?")]);
/// assert!(matches!(chat, Prompt::Messages(messages) if messages.len() == 1));
/// assert_eq!(Prompt::from("The sky is"), Prompt::Text("The sky is".into()));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    /// A conversation, rendered with the model's chat template; the last message is not
    /// the assistant's.
    Messages(Arc<[Message]>),
    /// A text that is read as it is, without the chat template. Names of special tokens
    /// in it become those tokens.
    Text(Arc<str>),
    /// Tokens that are read as they are, at least one.
    Tokens(Arc<[u32]>),
}

impl<const N: usize> From<[Message; N]> for Prompt {
    fn from(messages: [Message; N]) -> Self {
        Self::Messages(messages.into())
    }
}

impl From<Vec<Message>> for Prompt {
    fn from(messages: Vec<Message>) -> Self {
        Self::Messages(messages.into())
    }
}

impl From<Arc<[Message]>> for Prompt {
    fn from(messages: Arc<[Message]>) -> Self {
        Self::Messages(messages)
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u32>> for Prompt {
    fn from(tokens: Vec<u32>) -> Self {
        Self::Tokens(tokens.into())
    }
}

/// The next part of a reply, as [`ModelSession::stream`](super::ModelSession::stream)
/// shows it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StreamPart {
    /// The prompt was read: how likely its tokens were. Comes once and first, if
    /// [`StreamRequest::prompt_log_probs`] asks for it.
    #[non_exhaustive]
    Prompt {
        /// The first token, which follows nothing.
        first: TokenText,
        /// The other tokens, in order.
        rest: Vec<TokenLogProb>,
    },
    /// The next tokens of the reply.
    #[non_exhaustive]
    Tokens {
        /// Their ids, the one that ends the reply included; empty if the provider does
        /// not tell.
        ids: Vec<u32>,
        /// The text that they complete, always whole characters: empty for a token that
        /// ends within one.
        text: String,
        /// One per token, if [`StreamRequest::log_probs`] asks for them and the backend
        /// has them.
        log_probs: Option<Vec<TokenLogProb>>,
    },
    /// The reply is finished; nothing follows.
    Done(Completion),
}

impl StreamPart {
    /// The part that tells how likely a prompt's tokens were: its `first` token, and the
    /// `rest`.
    pub fn prompt(first: TokenText, rest: Vec<TokenLogProb>) -> Self {
        Self::Prompt { first, rest }
    }

    /// The part of the tokens `ids`, which complete `text`.
    pub fn tokens(ids: Vec<u32>, text: impl Into<String>, log_probs: Option<Vec<TokenLogProb>>) -> Self {
        Self::Tokens { ids, text: text.into(), log_probs }
    }
}

/// The parts of a reply that a session shows whole: all its tokens, and that it is done.
pub(super) fn whole(
    mut answers: BoxStream<'static, Generated>,
    cx: CallContext,
) -> BoxStream<'static, Result<StreamPart>> {
    let parts = async move {
        match first_answer(&mut answers, &cx, STREAM).await {
            Err(error) => vec![Err(error)],
            Ok(completion) => {
                let Completion { tokens, text, log_probs, .. } = completion.clone();
                let shown = !text.is_empty() || !tokens.is_empty();
                let tokens = shown.then(|| Ok(StreamPart::tokens(tokens, text, log_probs)));
                tokens.into_iter().chain([Ok(StreamPart::Done(completion))]).collect()
            }
        }
    };
    stream::once(parts).flat_map(stream::iter).boxed()
}

/// A stream of nothing but `error`.
pub(super) fn refused(error: Error) -> BoxStream<'static, Result<StreamPart>> {
    stream::iter([Err(error)]).boxed()
}

/// The answer to a call of one request.
///
/// # Errors
/// The request's own; what `cx` says, if the session ended its answers without one
/// because of it.
pub(super) async fn first_answer(
    answers: &mut BoxStream<'static, Generated>,
    cx: &CallContext,
    operation: &str,
) -> Result<Completion> {
    if let Some(answer) = answers.next().await {
        return answer.result;
    }
    cx.check(operation)?;
    Err(Error::bug(operation, "the session ended its answers without one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{FinishReason, ModelSession, Role, Usage};
    use crate::testing::{ScriptedSession, completion};

    fn ask() -> Prompt {
        Prompt::from([Message::new(Role::User, "Which files?")])
    }

    async fn parts(session: &ScriptedSession, request: StreamRequest) -> Vec<Result<StreamPart>> {
        session.stream(request, &CallContext::new()).collect().await
    }

    #[tokio::test]
    async fn a_session_without_streams_shows_its_reply_at_once() {
        let said = completion("ls -l").with_tokens(vec![1, 2, 3, 4, 5, 0]);
        let answer = said.clone();
        let session = ScriptedSession::new("one", move |_| Ok(answer.clone()));
        let sampling = Sampling { temperature: 0.5, ..Sampling::default() };
        let request =
            StreamRequest::new(ask(), 9).with_sampling(sampling).with_seed(3).with_log_probs(Some(1));
        let parts: Vec<_> =
            parts(&session, request).await.into_iter().map(|part| part.expect("a part")).collect();
        let prompt_tokens = session.count_prompt_tokens(&session.asked()[0].messages).expect("counted");
        let done = Completion { usage: Usage { prompt_tokens, ..said.usage }, ..said };
        assert_eq!(parts, [StreamPart::tokens(done.tokens.clone(), "ls -l", None), StreamPart::Done(done)]);
        let asked = &session.asked()[0];
        assert_eq!(
            (asked.seed, asked.log_probs, asked.max_new_tokens, asked.sampling),
            (3, Some(1), 9, sampling)
        );
    }

    #[tokio::test]
    async fn an_empty_reply_has_no_tokens() {
        let session =
            ScriptedSession::new("mute", |_| Ok(Completion::new("", FinishReason::Stop, Usage::default())));
        let parts = parts(&session, StreamRequest::new(ask(), 9)).await;
        assert!(matches!(&parts[..], [Ok(StreamPart::Done(_))]), "{parts:?}");
    }

    #[tokio::test]
    async fn what_only_engines_can_do_is_refused() {
        let session = ScriptedSession::saying("one", "ls");
        for request in [
            StreamRequest::new("ls", 9),
            StreamRequest::new(vec![1_u32], 9),
            StreamRequest::new(ask(), 9).with_prompt_log_probs(true),
        ] {
            let parts = parts(&session, request).await;
            let [Err(error)] = &parts[..] else { panic!("{parts:?}") };
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Unsupported, Fault::Operator));
        }
        assert!(session.asked().is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_the_only_part() {
        let session =
            ScriptedSession::new("down", |_| Err(Error::new(ErrorKind::Unavailable, "ask", "down")));
        let parts = parts(&session, StreamRequest::new(ask(), 9)).await;
        assert!(matches!(&parts[..], [Err(error)] if error.kind() == ErrorKind::Unavailable), "{parts:?}");
        let cx = CallContext::new();
        cx.cancel();
        let said = ScriptedSession::saying("one", "ls").stream(StreamRequest::new(ask(), 9), &cx);
        let parts: Vec<_> = said.collect().await;
        assert!(matches!(&parts[..], [Err(error)] if error.kind() == ErrorKind::Cancelled), "{parts:?}");
    }
}
