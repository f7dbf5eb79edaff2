//! Streamed replies: server-sent events, as OpenAI sends them.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde::Serialize;

use super::reply::{End, Piece, Replies};
use crate::server::error::ApiError;

/// After so long without a token a comment is sent, so that a connection that is dead is
/// noticed, and none is taken for dead. Source: chosen by albedo.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How the events of one kind of request look.
pub(super) trait Chunks: Send + 'static {
    type Chunk: Serialize;

    /// What comes before the first piece of reply `index`.
    fn first(&mut self, index: usize) -> Option<Self::Chunk>;

    /// The event of a piece.
    fn piece(&mut self, index: usize, piece: Piece) -> Option<Self::Chunk>;

    /// The event with the usage of all replies.
    fn usage(&mut self, ends: &[End]) -> Self::Chunk;
}

/// An answer that sends `replies` as they come.
///
/// # Errors
/// The first piece's: the answer has not begun then, and its status reports it.
pub(super) async fn respond<C: Chunks>(
    mut pieces: Replies,
    chunks: C,
    replies: usize,
    usage: bool,
) -> Result<Response, ApiError> {
    let first = match pieces.next().await {
        Some((_, Piece::Failed(error))) => return Err(error),
        first => first,
    };
    let events = Events {
        pieces,
        chunks,
        next: first,
        began: vec![false; replies],
        ends: vec![None; replies],
        usage,
        ready: Vec::new(),
        is_over: false,
    };
    let events = stream::unfold(events, async |mut events| {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(event), events))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// The events of one answer.
struct Events<C> {
    pieces: Replies,
    chunks: C,
    /// Taken from `pieces` already.
    next: Option<(usize, Piece)>,
    /// Which replies have begun.
    began: Vec<bool>,
    ends: Vec<Option<End>>,
    usage: bool,
    /// Events to be sent, the last first.
    ready: Vec<Event>,
    is_over: bool,
}

impl<C: Chunks> Events<C> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let piece = match self.next.take() {
                Some(piece) => Some(piece),
                None => self.pieces.next().await,
            };
            self.take(piece);
            self.ready.reverse();
        }
    }

    /// Puts the events of a piece into `ready`, the first first.
    fn take(&mut self, piece: Option<(usize, Piece)>) {
        match piece {
            Some((index, Piece::Failed(error))) => {
                tracing::warn!(
                    index,
                    status = error.status().as_u16(),
                    "a streamed reply failed: {}",
                    error.body().error.message
                );
                self.is_over = true;
                self.ready.push(data(&error.body()));
            }
            Some((index, piece)) => {
                let begins = self.began.get_mut(index).is_some_and(|began| !std::mem::replace(began, true));
                if begins && let Some(first) = self.chunks.first(index) {
                    self.ready.push(data(&first));
                }
                if let (Piece::End(end), Some(place)) = (&piece, self.ends.get_mut(index)) {
                    *place = Some(*end);
                }
                if let Some(chunk) = self.chunks.piece(index, piece) {
                    self.ready.push(data(&chunk));
                }
            }
            None => {
                self.is_over = true;
                if self.usage {
                    let ends: Vec<_> = self.ends.iter().flatten().copied().collect();
                    let usage = self.chunks.usage(&ends);
                    self.ready.push(data(&usage));
                }
                self.ready.push(Event::default().data("[DONE]"));
            }
        }
    }
}

fn data(value: &impl Serialize) -> Event {
    // Every type here has a JSON form, whose line breaks are escaped.
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}
