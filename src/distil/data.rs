//! What a distillation learns from: the rows of records and task sets, what is held out of
//! them, and what was left out, counted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::config::{DistilConfig, Objective, Split, StageSettings, Turns, Weight};
use super::order::Place;
use super::rename::renamed;
use crate::backends::burn::train::Row;
use crate::backends::prompts::{ConversationTokens, PromptText};
use crate::config::DuelConfig;
use crate::rng::{Stream, Use, derive_seed};
use crate::{BuildContext, Digest, Error, ErrorKind, Fault, Message, MessageRole, Result};

mod sources;

use sources::HeldOut;

pub(super) const READ: &str = "read the data of the distillation";

/// One pass in so many keeps the names of a row, where they are replaced. Source: as the
/// demo's models were trained.
const KEEPS_NAMES: u64 = 16;

/// What is trained on, and what is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DataReport {
    /// Digest of everything that is trained on and measured on, in order.
    pub digest: Digest,
    /// Where it comes from.
    pub sources: Vec<SourceReport>,
    /// What the stages learn from, by their `turns`.
    pub sets: Vec<SetReport>,
    /// What is held out: conversations, and their repositories.
    pub held_out: Held,
    /// What is not trained on, and why.
    pub left_out: LeftOut,
    /// What the student's chat template puts behind a reply, if the engine goes on behind it:
    /// replies are closed with the `eos_token` instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endless: Option<String>,
}

/// A source of data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// The last part of its path; before schema 2 the whole path; of several records the folder's name, too.
    pub name: String,
    /// The record's digest, the digest of a task set's manifest, or that of the rows of a
    /// file.
    pub digest: Digest,
    /// Its license, if it was stated.
    pub license: Option<String>,
    /// Conversations that it has, before anything is left out.
    pub rows: u64,
}

/// What some stages learn from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetReport {
    /// Which replies.
    pub turns: Turns,
    /// Conversations.
    pub rows: u64,
    /// Tokens of one pass, prompts included, without new names.
    pub tokens: u64,
    /// Tokens of replies in one pass, with those that close them.
    pub supervised: u64,
    /// Conversations that the length cap has cut.
    pub cut: u64,
    /// Conversations of which the cap has left no reply.
    pub dropped: u64,
    /// Tokens of replies that the cap has taken away.
    pub cut_supervised: u64,
    /// Repositories that are named.
    pub repos: u64,
    /// Conversations by license; `unknown` where none was stated.
    pub licenses: BTreeMap<String, u64>,
    /// Conversations of which no prompt leaves room for a sampled reply, by the longest reply in
    /// tokens: the stages that sample leave them out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub without_room: BTreeMap<u32, u64>,
}

/// What is held out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Held {
    /// Conversations.
    pub rows: u64,
    /// Repositories.
    pub repos: u64,
    /// Conversations that the loss is measured on.
    pub measured: u64,
}

/// Conversations that are not trained on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// Contamination: a held-out task has the same id.
    pub same_task: u64,
    /// Contamination: a held-out task begins with the same text.
    pub same_text: u64,
    /// Their repository is held out.
    pub held_out_repos: u64,
    /// They are the beginning of another one, or the same.
    pub repeated: u64,
    /// The winner's reply, or the loser's, ended at the limit of its length.
    pub unfinished: u64,
    /// Samples whose replies the panel finds equal, or did not judge; for pairs also those
    /// that are not clear. Winners' and losers' replies in whose place a judge was given the twin.
    pub undecided: u64,
    /// Records of submissions that were not admitted, which have no replies.
    pub forfeits: u64,
}

/// A conversation to learn from, or to measure on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Example {
    id: String,
    repo: String,
    instance: String,
    /// The reply that is learnt is the last message.
    messages: Vec<Message>,
    /// The reply of a duel.
    reply: Option<Reply>,
    /// The other one of its pair, where a stage learns from both.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<Rejected>,
    #[serde(skip)]
    license: Option<String>,
}

/// A reply of a duel as it was sampled.
#[derive(Debug, Clone, Serialize)]
struct Reply {
    /// Empty if the backend did not tell.
    ids: Vec<u32>,
    /// What the panel made of it, above 0 and at most 1.
    margin: f64,
}

/// The worse reply of a pair.
#[derive(Debug, Clone, Serialize)]
struct Rejected {
    text: String,
    reply: Reply,
}

/// The rows of the data, encoded for a student.
#[derive(Debug)]
pub(super) struct View {
    text: PromptText,
    sets: BTreeMap<Turns, Vec<Example>>,
    /// For stages that sample, by their set and the longest reply: the places in the set of the
    /// conversations that leave room for it.
    roomy: BTreeMap<(Turns, u32), Vec<usize>>,
    measured: Vec<Row>,
    rename: bool,
    seed: u64,
    max_tokens: usize,
    pub(super) report: DataReport,
}

/// What the length cap did to a conversation.
#[derive(Debug, Default)]
struct Counted {
    tokens: usize,
    supervised: usize,
    cut_supervised: usize,
}

/// Reads and verifies everything that `config` names, as [`View::read`] does, and refuses a duel of the
/// configuration `duel` if its record could not be read, too. Whether anything is left to learn from is not
/// known before that duel.
///
/// # Errors
/// As [`View::read`]; the duel's tasks are missing, malformed or held out.
pub(super) async fn check(config: &DistilConfig, duel: &DuelConfig, cx: &BuildContext<'_>) -> Result<()> {
    let (_, held, _) = read(config, cx).await?;
    held.refuse_duel(sources::tasks_of(duel, cx).await?.info().manifest)
}

/// The student's text, what is held out, and the data, before anything is left out of them.
async fn read(config: &DistilConfig, cx: &BuildContext<'_>) -> Result<(PromptText, HeldOut, sources::Read)> {
    let student = config.path(&config.student.path);
    let text = PromptText::load(&student).map_err(|error| error.under("student.path"))?;
    let wanted: BTreeSet<Turns> = config.stage.iter().map(|stage| stage.turns).collect();
    let held = HeldOut::read(config, cx).await?;
    let read = sources::read(config, &text, &wanted, &held, cx).await?;
    Ok((text, held, read))
}

impl View {
    /// Reads, verifies and counts everything that `config` names.
    ///
    /// # Errors
    /// A source that is missing or malformed, a record that does not verify; a record of
    /// held-out tasks; replies of another tokenizer than the student's; nothing to learn
    /// from.
    pub(super) async fn read(config: &DistilConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let (text, mut held, read) = read(config, cx).await?;
        let sources::Read { mut sets, sources, mut left_out } = read;

        let by_repo = config.data.split == Split::Repo;
        if by_repo && held.is_empty() {
            // Without a set of its own, one repository in ten is held out.
            held.take_tenth(&sets, config.data.held_out_rows.0);
        }
        for examples in sets.values_mut() {
            examples.retain(|example| held.admits(example, by_repo, &mut left_out));
        }
        let endless = text.endless().map(str::to_owned);
        let mut view = Self {
            text,
            sets: BTreeMap::new(),
            roomy: BTreeMap::new(),
            measured: Vec::new(),
            rename: config.data.rename,
            seed: config.train.seed,
            max_tokens: config.train.max_tokens,
            report: DataReport {
                digest: Digest::of(""),
                sources,
                sets: Vec::new(),
                held_out: Held { rows: held.rows(), repos: held.repos(), measured: 0 },
                left_out,
                endless,
            },
        };
        for (turns, examples) in sets {
            let (kept, report) = view.count(turns, examples)?;
            if kept.is_empty() {
                return Err(nothing_left(&report, &view.report.left_out));
            }
            view.report.sets.push(report);
            view.sets.insert(turns, kept);
        }
        for (number, stage) in config.stage.iter().enumerate() {
            if stage.objective == Objective::OnPolicy {
                view.make_room(stage).map_err(|error| error.under(format_args!("stage[{number}]")))?;
            }
        }
        let measured = view.measure(held.measured())?;
        view.report.held_out.measured = measured.len() as u64;
        view.report.digest = Digest::of_json(&(&view.sets, &measured))?;
        Ok(view)
    }

    /// Measures `examples`, and gives those of which the length cap leaves something.
    fn count(&self, turns: Turns, examples: Vec<Example>) -> Result<(Vec<Example>, SetReport)> {
        let mut report = SetReport {
            turns,
            rows: 0,
            tokens: 0,
            supervised: 0,
            cut: 0,
            dropped: 0,
            cut_supervised: 0,
            repos: 0,
            licenses: BTreeMap::new(),
            without_room: BTreeMap::new(),
        };
        let (mut kept, mut repos) = (Vec::new(), BTreeSet::new());
        for example in examples {
            let named = |error: Error| error.with("conversation", &example.id);
            let rows = self.tokens(example.reply.as_ref(), &example.messages, true).map_err(named)?;
            let Counted { mut tokens, mut supervised, mut cut_supervised } = counted(rows, self.max_tokens);
            if let Some(rejected) = &example.rejected {
                let messages = answered_by(&example.messages, &rejected.text);
                let rows = self.tokens(Some(&rejected.reply), &messages, true).map_err(named)?;
                let other = counted(rows, self.max_tokens);
                // A pair of which one is cut is none.
                supervised =
                    if supervised > 0 && other.supervised > 0 { supervised + other.supervised } else { 0 };
                (tokens, cut_supervised) = (tokens + other.tokens, cut_supervised + other.cut_supervised);
            }
            report.cut_supervised += cut_supervised as u64;
            if supervised == 0 {
                report.dropped += 1;
                continue;
            }
            report.cut += u64::from(cut_supervised > 0);
            report.tokens += tokens as u64;
            report.supervised += supervised as u64;
            let license = example.license.clone().unwrap_or_else(|| "unknown".into());
            *report.licenses.entry(license).or_default() += 1;
            // What nobody has named is no repository.
            if !example.repo.is_empty() {
                repos.insert(example.repo.clone());
            }
            kept.push(example);
        }
        (report.rows, report.repos) = (kept.len() as u64, repos.len() as u64);
        Ok((kept, report))
    }

    /// Finds the conversations whose shortest prompt leaves room for the longest reply of `stage`,
    /// and counts the others.
    fn make_room(&mut self, stage: &StageSettings) -> Result<()> {
        let most = stage.reply_cap();
        let mut roomy = Vec::new();
        let examples = self.sets.get(&stage.turns).map_or(&[][..], Vec::as_slice);
        for (place, example) in examples.iter().enumerate() {
            let named = |error: Error| error.with("conversation", &example.id);
            let prompt = turns(&example.messages).first().map(|first| &example.messages[..*first]);
            if prompt.map_or(Ok(false), |prompt| self.has_room(prompt, most)).map_err(named)? {
                roomy.push(place);
            }
        }
        let without = (examples.len() - roomy.len()) as u64;
        if roomy.is_empty() {
            return Err(Error::new(ErrorKind::ConfigInvalid, READ, "no prompt leaves room for a reply")
                .with("key", "max_new_tokens")
                .with("max_new_tokens", most)
                .with("max_tokens", self.max_tokens)
                .with_hint("lower it, or raise `train.max_tokens`"));
        }
        let report = self.report.sets.iter_mut().find(|set| set.turns == stage.turns);
        if let Some(report) = report.filter(|_| without > 0) {
            report.without_room.insert(most, without);
        }
        self.roomy.insert((stage.turns, most), roomy);
        Ok(())
    }

    /// Whether `prompt` leaves room for a reply of `most` tokens.
    fn has_room(&self, prompt: &[Message], most: u32) -> Result<bool> {
        Ok(self.text.answered(prompt, &[])?.ids.len() + most as usize <= self.max_tokens)
    }

    /// Encodes `examples`, which the loss is measured on. Gives those of which the length cap
    /// leaves something.
    fn measure<'a>(&mut self, examples: &'a [Example]) -> Result<Vec<&'a Example>> {
        let mut taken = Vec::new();
        for example in examples {
            let rows = self.text.conversation(&example.messages);
            let rows = rows.map_err(|error| error.with("conversation", &example.id))?;
            let rows = rows_of(rows, self.max_tokens, Weights::REPLIES);
            if !rows.is_empty() {
                self.measured.extend(rows);
                taken.push(example);
            }
        }
        Ok(taken)
    }

    /// The rows that the loss is measured on.
    pub(super) fn measured(&self) -> &[Row] {
        &self.measured
    }

    /// The places in its set of what `stage` learns from, if that is not all of it.
    fn places(&self, stage: &StageSettings) -> Option<&Vec<usize>> {
        let places = self.roomy.get(&(stage.turns, stage.reply_cap()));
        places.filter(|_| stage.objective == Objective::OnPolicy)
    }

    /// How many conversations `stage` learns from.
    pub(super) fn len(&self, stage: &StageSettings) -> usize {
        let all = self.sets.get(&stage.turns).map_or(0, Vec::len);
        self.places(stage).map_or(all, Vec::len)
    }

    /// What `stage` reads at `place`.
    ///
    /// # Errors
    /// A bug: there is no such row.
    fn example(&self, stage: &StageSettings, place: Place) -> Result<&Example> {
        let row = match self.places(stage) {
            Some(places) => places.get(place.row).copied(),
            None => Some(place.row),
        };
        let example = row.and_then(|row| self.sets.get(&stage.turns)?.get(row));
        example.ok_or_else(|| Error::bug(READ, "there is no such row"))
    }

    /// Steps that `stage` takes with `accumulate` conversations each.
    pub(super) fn steps(&self, stage: &StageSettings, accumulate: usize) -> u64 {
        let set = self.report.sets.iter().find(|set| set.turns == stage.turns);
        let mean = set.map_or(1.0, |set| set.tokens as f64 / set.rows.max(1) as f64);
        match (stage.steps, stage.tokens) {
            (Some(steps), _) => steps,
            (None, tokens) => {
                let steps = tokens.unwrap_or_default() as f64 / (mean * accumulate as f64);
                (steps.round() as u64).max(1)
            }
        }
    }

    /// What a stage reads at `place`, as engines name it: the conversation and the number of
    /// its copy.
    pub(super) fn name(&self, stage: &StageSettings, place: Place) -> String {
        let id = self.example(stage, place).map_or("", |example| &example.id[..]);
        format!("{id} {}", self.copy(id, place.pass).unwrap_or_default())
    }

    /// The number of the copy that pass `pass` makes of the row; none if it keeps its names.
    fn copy(&self, id: &str, pass: u64) -> Option<u64> {
        let parts = [&self.seed.to_le_bytes()[..], id.as_bytes(), &pass.to_le_bytes()];
        let keeps = derive_seed("albedo distil copy 1", &parts).is_multiple_of(KEEPS_NAMES);
        (self.rename && !keeps).then_some(pass + 1)
    }

    /// The rows of the conversation at `place`.
    ///
    /// # Errors
    /// A copy that the tokenizer refuses.
    pub(super) fn rows(&self, stage: &StageSettings, place: Place) -> Result<Vec<Row>> {
        let example = self.example(stage, place)?;
        let replies = match (&example.reply, stage.weight) {
            (Some(reply), Weight::Margin) => reply.margin,
            _ => 1.0,
        };
        let weights = Weights { replies: replies as f32, prompts: (replies * stage.prompts) as f32 };
        let named = |error: Error| error.with("conversation", &example.id);
        if let Some(rejected) = &example.rejected {
            return self.pair(example, rejected, place).map_err(named);
        }
        if let Some(copy) = self.copy(&example.id, place.pass) {
            let messages = renamed(&example.messages, &example.repo, self.seed, &example.id, copy);
            let rows = rows_of(
                self.tokens(example.reply.as_ref(), &messages, false).map_err(named)?,
                self.max_tokens,
                weights,
            );
            // New names can be longer: a copy that the length cap leaves nothing of is not used.
            if !rows.is_empty() {
                return Ok(rows);
            }
        }
        let tokens = self.tokens(example.reply.as_ref(), &example.messages, true).map_err(named)?;
        Ok(rows_of(tokens, self.max_tokens, weights))
    }

    /// The two rows of a pair, the better one first. Both replies of a copy get the same new
    /// names.
    fn pair(&self, example: &Example, rejected: &Rejected, place: Place) -> Result<Vec<Row>> {
        let both = |messages: &[Message], text: &str, is_original: bool| -> Result<Vec<Row>> {
            let mut rows = Vec::new();
            let own = self.tokens(example.reply.as_ref(), messages, is_original)?;
            let others = self.tokens(Some(&rejected.reply), &answered_by(messages, text), is_original)?;
            for tokens in [own, others] {
                rows.extend(rows_of(tokens, self.max_tokens, Weights::REPLIES));
            }
            Ok(rows)
        };
        if let Some(copy) = self.copy(&example.id, place.pass) {
            let mut all = example.messages.clone();
            all.push(Message::new(MessageRole::Assistant, &rejected.text[..]));
            let mut all = renamed(&all, &example.repo, self.seed, &example.id, copy);
            if let Some(other) = all.pop() {
                let rows = both(&all, &other.content, false)?;
                if rows.len() == 2 {
                    return Ok(rows);
                }
            }
        }
        both(&example.messages, &rejected.text, true)
    }

    /// The prompt of one turn of the conversation at `place`, drawn by seed, row and pass
    /// among those that leave room for the longest reply of `stage`.
    ///
    /// # Errors
    /// A copy that the tokenizer refuses.
    pub(super) fn prompt(&self, stage: &StageSettings, place: Place) -> Result<Vec<Message>> {
        let example = self.example(stage, place)?;
        let named = |error: Error| error.with("conversation", &example.id);
        if let Some(copy) = self.copy(&example.id, place.pass) {
            let messages = renamed(&example.messages, &example.repo, self.seed, &example.id, copy);
            // New names can be longer: a copy that leaves no room is not used.
            if let Some(turn) = self.turn(stage, place, &example.id, &messages).map_err(named)? {
                return Ok(messages[..turn].to_vec());
            }
        }
        let turn = self.turn(stage, place, &example.id, &example.messages).map_err(named)?;
        let turn = turn.ok_or_else(|| Error::bug(READ, "a conversation leaves no room for a reply"))?;
        Ok(example.messages[..turn].to_vec())
    }

    /// The turn of `messages` whose prompt is drawn for the conversation `id` at `place`; none if
    /// no prompt leaves room.
    fn turn(
        &self,
        stage: &StageSettings,
        place: Place,
        id: &str,
        messages: &[Message],
    ) -> Result<Option<usize>> {
        let mut turns = turns(messages);
        let parts = [&self.seed.to_le_bytes()[..], id.as_bytes(), &place.pass.to_le_bytes()];
        let mut stream = Stream::new(derive_seed("albedo distil turn 1", &parts), Use::RowDraw);
        while !turns.is_empty() {
            let turn = turns.swap_remove(stream.below(turns.len() as u64) as usize);
            if self.has_room(&messages[..turn], stage.reply_cap())? {
                return Ok(Some(turn));
            }
            // A later prompt is longer still.
            turns.retain(|other| *other < turn);
        }
        Ok(None)
    }

    /// The row of a reply with those ids to `prompt`.
    ///
    /// # Errors
    /// Messages that the template refuses.
    pub(super) fn answered(&self, prompt: &[Message], ids: &[u32]) -> Result<Vec<Row>> {
        Ok(rows_of(vec![self.text.answered(prompt, ids)?], self.max_tokens, Weights::REPLIES))
    }

    /// The tokens of `messages`, which are an example's or a copy of them; `reply` is the
    /// last one, if it is of a duel. Sampled ids are taken as they are where the text is the
    /// one that was sampled.
    fn tokens(
        &self,
        reply: Option<&Reply>,
        messages: &[Message],
        is_original: bool,
    ) -> Result<Vec<ConversationTokens>> {
        match (reply, messages.split_last()) {
            (Some(reply), Some((_, prompt))) if is_original && !reply.ids.is_empty() => {
                Ok(vec![self.text.answered(prompt, &reply.ids)?])
            }
            (Some(_), _) => {
                // Only the last turn is of the duel.
                let mut rows = self.text.conversation(messages)?;
                let mut last = rows.pop().into_iter().collect::<Vec<_>>();
                for row in &mut last {
                    row.replies.drain(..row.replies.len().saturating_sub(1));
                }
                Ok(last)
            }
            (None, _) => self.text.conversation(messages),
        }
    }
}

/// The places of the assistant's turns that something stands before.
fn turns(messages: &[Message]) -> Vec<usize> {
    let is_turn = |(place, message): (usize, &Message)| {
        (place > 0 && message.role == MessageRole::Assistant).then_some(place)
    };
    messages.iter().enumerate().filter_map(is_turn).collect()
}

/// `messages` with another last one.
fn answered_by(messages: &[Message], text: &str) -> Vec<Message> {
    let mut messages = messages.to_vec();
    messages.pop();
    messages.push(Message::new(MessageRole::Assistant, text));
    messages
}

/// What `max_tokens` leaves of `rows`.
fn counted(rows: Vec<ConversationTokens>, max_tokens: usize) -> Counted {
    let mut counted = Counted::default();
    for mut row in rows {
        let whole = row.reply_tokens();
        if row.cut(max_tokens) {
            counted.tokens += row.ids.len();
            counted.supervised += row.reply_tokens();
        }
        counted.cut_supervised += whole - row.reply_tokens();
    }
    counted
}

/// How much tokens count in the loss.
#[derive(Debug, Clone, Copy)]
struct Weights {
    /// Those of replies, and those that close them.
    replies: f32,
    /// All others, except those that the conversation's row before begins with, too: they count there.
    prompts: f32,
}

impl Weights {
    /// Replies alone count.
    const REPLIES: Self = Self { replies: 1.0, prompts: 0.0 };
}

/// What `max_tokens` leaves of `rows`, which are of one conversation, as the engine takes them.
fn rows_of(rows: Vec<ConversationTokens>, max_tokens: usize, weights: Weights) -> Vec<Row> {
    let mut taken: Vec<Row> = Vec::new();
    for mut row in rows {
        if row.cut(max_tokens) {
            let mut each = vec![weights.prompts; row.ids.len()];
            let before = taken.last().map_or(&[][..], |before| &before.ids[..]);
            let seen = before.iter().zip(&row.ids).take_while(|(before, own)| before == own).count();
            each[..seen].fill(0.0);
            for reply in &row.replies {
                each[reply.clone()].fill(weights.replies);
            }
            // Nothing is before the first token.
            if let Some(first) = each.first_mut() {
                *first = 0.0;
            }
            taken.push(Row { ids: row.ids, weights: each });
        }
    }
    taken
}

/// The text that a task begins with: what its user says first.
fn statement(messages: &[Message]) -> Digest {
    let said = messages.iter().find(|message| message.role == MessageRole::User);
    Digest::of(said.map_or("", |message| &message.content[..]))
}

fn nothing_left(set: &SetReport, left_out: &LeftOut) -> Error {
    let contaminated = left_out.same_task + left_out.same_text + left_out.held_out_repos;
    Error::new(ErrorKind::DataInvalid, READ, "there is no conversation to learn from")
        .with_fault(Fault::Operator)
        .with("turns", set.turns.name())
        .with("held out", contaminated)
        .with("too long", set.dropped)
        .with("undecided", left_out.undecided)
        .with_hint("name more data, raise `train.max_tokens`, or hold out less")
}

#[cfg(test)]
mod tests;
