//! The replies of one request: each waits for its turn, is written by the engine, and
//! handed on piece by piece.
//!
//! Every reply is written by a task of its own that never waits for the client: its
//! pieces go into a channel with room for all of them. So a slow reader holds neither a
//! step of the engine nor a place in the queue. The tasks end with the request: a client
//! that goes away frees its places before the next step.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::log_probs::Places;
use super::stop::Stops;
use crate::server::access::Ticket;
use crate::server::error::ApiError;
use crate::server::health::Busy;
use crate::server::metrics::{
    COMPLETION_TOKENS, FIRST_TOKEN_SECONDS, Metrics, PROMPT_TOKENS, REPLIES, REPLY_SECONDS,
};
use crate::server::state::State;
use crate::{
    CallContext, Completion, FinishReason, ModelSession, StreamPart, StreamRequest, TokenLogProb, TokenText,
};

/// The replies that one request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    /// The name that the request gave.
    pub(super) model: String,
    pub(super) session: Arc<dyn ModelSession>,
    /// One per reply.
    pub(super) requests: Vec<StreamRequest>,
    /// Tokens of each one's prompt, where they are known before it is read.
    pub(super) prompt_tokens: Vec<Option<u32>>,
    pub(super) stops: Arc<[String]>,
    /// One per reply.
    pub(super) tickets: Vec<Ticket>,
}

/// A piece of a reply.
#[derive(Debug)]
pub(super) enum Piece {
    /// How likely the tokens of its prompt were, if that was asked for.
    Prompt { first: TokenText, rest: Vec<TokenLogProb> },
    /// Its next text; tokens whose text is handed on with it, and the character of the whole
    /// reply that each of them begins in.
    Text { text: String, log_probs: Vec<TokenLogProb>, starts: Vec<u64> },
    /// It is finished.
    End(End),
    /// There is no more of it, because of this.
    Failed(ApiError),
}

/// How a reply ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// `stop` or `length`.
    pub(super) finish: &'static str,
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
}

/// The pieces of a request's replies, in the order in which they come. Dropping it ends
/// the replies that are still written.
#[derive(Debug)]
pub(super) struct Replies {
    pieces: mpsc::Receiver<(usize, Piece)>,
    unfinished: usize,
    _writers: JoinSet<()>,
}

impl Replies {
    /// Begins to write what is `asked`.
    pub(super) fn begin(asked: Asked, state: &State) -> Self {
        let Asked { model, session, requests, prompt_tokens, stops, tickets } = asked;
        // For each reply its prompt, one piece per token, what was held back, the end.
        let room: usize = requests.iter().map(|request| request.max_new_tokens as usize + 4).sum();
        let (to, pieces) = mpsc::channel(room.min(tokio::sync::Semaphore::MAX_PERMITS));
        let (mut writers, unfinished) = (JoinSet::new(), requests.len());
        let each = requests.into_iter().zip(prompt_tokens).zip(tickets).enumerate();
        for (index, ((request, prompt_tokens), ticket)) in each {
            let cx = state.work().child();
            let writer = Writer {
                to: to.clone(),
                index,
                told: Told::new(state, &model),
                cut: Cut::new(&stops, session.model().stop_ids.clone(), prompt_tokens),
            };
            writers.spawn(writer.write(Arc::clone(&session), request, ticket, cx));
        }
        Self { pieces, unfinished, _writers: writers }
    }

    /// The next piece, and which reply it is of; none once all have ended.
    pub(super) async fn next(&mut self) -> Option<(usize, Piece)> {
        if self.unfinished == 0 {
            return None;
        }
        let lost = || {
            let error = crate::Error::bug("write a reply", "its task ended without an end of the reply");
            (0, Piece::Failed(error.into()))
        };
        let (index, piece) = self.pieces.recv().await.unwrap_or_else(lost);
        match piece {
            Piece::End(_) => self.unfinished -= 1,
            Piece::Failed(_) => self.unfinished = 0,
            Piece::Prompt { .. } | Piece::Text { .. } => {}
        }
        Some((index, piece))
    }
}

/// Writes one reply.
struct Writer {
    to: mpsc::Sender<(usize, Piece)>,
    index: usize,
    told: Told,
    cut: Cut,
}

impl Writer {
    async fn write(
        mut self,
        session: Arc<dyn ModelSession>,
        request: StreamRequest,
        ticket: Ticket,
        cx: CallContext,
    ) {
        let written = self.pieces(&session, request, ticket, &cx).await;
        let end = match written {
            Ok(end) => {
                self.told.ended(end);
                Piece::End(end)
            }
            Err(error) => {
                self.told.failed();
                Piece::Failed(error)
            }
        };
        self.send(end).await;
    }

    async fn pieces(
        &mut self,
        session: &Arc<dyn ModelSession>,
        request: StreamRequest,
        ticket: Ticket,
        cx: &CallContext,
    ) -> Result<End, ApiError> {
        let _place = ticket.enter(cx).await?;
        let mut parts = session.stream(request, cx);
        while let Some(part) = parts.next().await {
            let part = part.map_err(ApiError::of_request)?;
            self.told.part(&part);
            let (piece, end) = self.cut.add(part);
            if let Some(piece) = piece {
                self.send(piece).await;
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
        Err(crate::Error::bug("write a reply", "the session ended the reply without its end").into())
    }

    async fn send(&self, piece: Piece) {
        // Fails only if the client has gone, and then this task is being ended.
        let _ = self.to.send((self.index, piece)).await;
    }
}

/// Makes pieces of the parts that a session shows: text up to a stop string, with the
/// tokens that it is of.
#[derive(Debug)]
struct Cut {
    stops: Stops,
    stop_ids: Vec<u32>,
    prompt_tokens: Option<u32>,
    written: u32,
    /// Bytes of the reply's text that came, and that were handed on.
    came: usize,
    shown: usize,
    places: Places,
    waiting: VecDeque<Waiting>,
}

/// A token whose text is not handed on yet.
#[derive(Debug)]
struct Waiting {
    /// Where its text begins, and where that of its part ends.
    start: usize,
    end: usize,
    /// The character of the reply that it begins in.
    place: u64,
    log_prob: TokenLogProb,
}

impl Cut {
    fn new(stops: &Arc<[String]>, stop_ids: Vec<u32>, prompt_tokens: Option<u32>) -> Self {
        Self {
            stops: Stops::new(Arc::clone(stops)),
            stop_ids,
            prompt_tokens,
            written: 0,
            came: 0,
            shown: 0,
            places: Places::default(),
            waiting: VecDeque::new(),
        }
    }

    /// The piece that a part makes, if any, and the end of the reply, if it is one.
    fn add(&mut self, part: StreamPart) -> (Option<Piece>, Option<End>) {
        match part {
            StreamPart::Prompt { first, rest, .. } => (Some(Piece::Prompt { first, rest }), None),
            StreamPart::Tokens { ids, text, log_probs, .. } => {
                let log_probs = log_probs.unwrap_or_default();
                self.written += ids.len().max(log_probs.len()) as u32;
                let start = self.came;
                self.came += text.len();
                for log_prob in log_probs {
                    // The token that ends a reply has no text.
                    if !self.ends(&log_prob) {
                        let place = self.places.next(&log_prob.token);
                        self.waiting.push_back(Waiting { start, end: self.came, place, log_prob });
                    }
                }
                let passed = self.stops.push(&text);
                self.shown += passed.text.len();
                let place = self.shown;
                let (piece, end) = if passed.stopped {
                    let end = End {
                        finish: "stop",
                        prompt_tokens: self.prompt_tokens.unwrap_or_default(),
                        completion_tokens: self.written,
                    };
                    (self.piece(passed.text, |token| token.start < place), Some(end))
                } else {
                    (self.piece(passed.text, |token| token.end <= place), None)
                };
                (piece, end)
            }
            StreamPart::Done(completion) => {
                let rest = self.stops.rest();
                let piece = self.piece(rest, |_| true);
                (piece, Some(self.end(&completion)))
            }
            _ => (None, None),
        }
    }

    fn ends(&self, log_prob: &TokenLogProb) -> bool {
        log_prob.token.id.is_some_and(|id| self.stop_ids.contains(&id))
    }

    fn piece(&mut self, text: String, goes: impl Fn(&Waiting) -> bool) -> Option<Piece> {
        let (mut log_probs, mut starts) = (Vec::new(), Vec::new());
        while let Some(token) = self.waiting.pop_front_if(|token| goes(token)) {
            log_probs.push(token.log_prob);
            starts.push(token.place);
        }
        (!text.is_empty() || !log_probs.is_empty()).then_some(Piece::Text { text, log_probs, starts })
    }

    fn end(&self, completion: &Completion) -> End {
        End {
            finish: match completion.finish {
                FinishReason::Length => "length",
                _ => "stop",
            },
            prompt_tokens: completion.usage.prompt_tokens.or(self.prompt_tokens).unwrap_or_default(),
            completion_tokens: completion.usage.completion_tokens.unwrap_or(self.written),
        }
    }
}

/// What the server counts of one reply. One that is dropped before its end was
/// abandoned by its client.
struct Told {
    metrics: Metrics,
    model: String,
    began: Instant,
    first: bool,
    over: bool,
    busy: Busy,
}

impl Told {
    fn new(state: &State, model: &str) -> Self {
        Self {
            metrics: state.metrics().clone(),
            model: model.to_owned(),
            began: Instant::now(),
            first: true,
            over: false,
            busy: state.activity().begin(),
        }
    }

    fn part(&mut self, part: &StreamPart) {
        self.busy.step();
        if matches!(part, StreamPart::Tokens { .. }) && std::mem::take(&mut self.first) {
            self.took(FIRST_TOKEN_SECONDS);
        }
    }

    fn ended(&mut self, end: End) {
        let labels = [("model", self.model.as_str())];
        self.metrics.add(PROMPT_TOKENS, &labels, end.prompt_tokens.into());
        self.metrics.add(COMPLETION_TOKENS, &labels, end.completion_tokens.into());
        self.took(REPLY_SECONDS);
        self.over(end.finish);
    }

    fn failed(&mut self) {
        self.over("failed");
    }

    fn over(&mut self, how: &str) {
        self.over = true;
        self.metrics.add(REPLIES, &[("model", &self.model), ("end", how)], 1);
    }

    fn took(&self, metric: crate::server::metrics::Metric) {
        self.metrics.took(metric, &[("model", &self.model)], self.began.elapsed().as_secs_f64());
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.over {
            self.over("abandoned");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Usage;

    const END: u32 = 99;

    fn cut(stops: &[&str]) -> Cut {
        Cut::new(&stops.iter().map(|stop| (*stop).to_owned()).collect(), vec![END], Some(7))
    }

    fn token(id: u32, text: &str) -> StreamPart {
        let log_prob = TokenLogProb {
            token: TokenText::new(Some(id), text.as_bytes().to_vec()),
            log_prob: -0.5,
            likeliest: Vec::new(),
        };
        StreamPart::tokens(vec![id], if id == END { "" } else { text }, Some(vec![log_prob]))
    }

    fn done(finish: FinishReason, tokens: u32) -> StreamPart {
        StreamPart::Done(Completion::new("", finish, Usage::counted(7, tokens)))
    }

    /// Text, tokens' texts, and the end.
    fn all(cut: &mut Cut, parts: Vec<StreamPart>) -> (String, Vec<String>, Option<End>) {
        let (mut shown, mut tokens) = (String::new(), Vec::new());
        for part in parts {
            let (piece, end) = cut.add(part);
            if let Some(Piece::Text { text, log_probs, .. }) = piece {
                shown += &text;
                tokens.extend(log_probs.into_iter().map(|log_prob| log_prob.token.text));
            }
            if end.is_some() {
                return (shown, tokens, end);
            }
        }
        (shown, tokens, None)
    }

    #[test]
    fn a_reply_that_ends_by_itself_is_whole_without_its_last_token() {
        let parts = vec![token(1, "ls"), token(2, " -l"), token(END, "<end>"), done(FinishReason::Stop, 3)];
        let (text, tokens, end) = all(&mut cut(&[]), parts);
        assert_eq!((text.as_str(), tokens), ("ls -l", vec!["ls".to_owned(), " -l".into()]));
        assert_eq!(end, Some(End { finish: "stop", prompt_tokens: 7, completion_tokens: 3 }));
        let parts = vec![token(1, "ls"), done(FinishReason::Length, 1)];
        assert_eq!(all(&mut cut(&[]), parts).2.expect("an end").finish, "length");
    }

    #[test]
    fn tokens_of_a_stop_string_are_counted_and_not_shown() {
        let parts = vec![token(1, "a E"), token(2, "N"), token(3, "D"), token(4, " more")];
        let (text, tokens, end) = all(&mut cut(&["END"]), parts);
        // The token that the stop string begins in has text before it.
        assert_eq!((text.as_str(), tokens), ("a ", vec!["a E".to_owned()]));
        assert_eq!(end, Some(End { finish: "stop", prompt_tokens: 7, completion_tokens: 3 }));
    }

    #[test]
    fn what_was_held_back_is_shown_at_the_end() {
        let parts = vec![token(1, "a E"), token(2, "N"), done(FinishReason::Length, 2)];
        let (text, tokens, _) = all(&mut cut(&["END"]), parts);
        assert_eq!((text.as_str(), tokens.len()), ("a EN", 2));
    }

    #[test]
    fn a_token_that_is_held_back_begins_where_its_text_does() {
        let mut cut = cut(&["END"]);
        let mut starts = Vec::new();
        for part in [token(1, "ä E"), token(2, "N"), token(3, "x"), token(4, "y")] {
            if let (Some(Piece::Text { starts: more, .. }), None) = cut.add(part) {
                starts.push(more);
            }
        }
        assert_eq!(starts, [vec![], vec![0, 3, 4], vec![5]]);
    }

    proptest! {
        #[test]
        fn shown_tokens_begin_in_the_shown_text(
            texts in prop::collection::vec("[abc]{0,3}", 0..12),
            stops in prop::collection::vec("[abc]{1,3}", 0..3),
        ) {
            let stops: Vec<_> = stops.iter().map(String::as_str).collect();
            let mut parts: Vec<_> = texts.iter().map(|text| token(1, text)).collect();
            parts.push(done(FinishReason::Stop, texts.len() as u32));
            let (text, tokens, end) = all(&mut cut(&stops), parts);
            prop_assert!(end.is_some());
            prop_assert!(tokens.concat().starts_with(&text));
            let before: usize = tokens[..tokens.len().saturating_sub(1)].iter().map(String::len).sum();
            prop_assert!(before <= text.len());
        }
    }
}
