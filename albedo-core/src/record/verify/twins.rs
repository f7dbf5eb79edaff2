//! Lines about replies and their twins.

use super::{Replies, Walk, wrong};
use crate::error::{Result, Side};
use crate::marks::Question;
use crate::order::Order;
use crate::plan::JudgePlan;
use crate::record::{RecordLine, RecordedAnswer};
use crate::twin::TwinCell;

impl Walk<'_> {
    /// The lines in which `judge` compared replies with their twins.
    pub(super) fn twins(
        &mut self,
        index: u32,
        judge: u32,
        plan: &JudgePlan,
        replies: Replies,
    ) -> Result<Vec<TwinCell>> {
        let mut cells: Vec<TwinCell> = Vec::new();
        while let Some(RecordLine::Twin { sample, judge: whose, side, drawn, text }) =
            self.record.lines.get(self.next)
        {
            self.next += 1;
            if (*sample, *whose) != (index, judge) || cells.last().is_some_and(|last| last.side >= *side) {
                return Err(self.unexpected("the next reply's twin or the next answer"));
            }
            let settings = self.plan.twins.filter(|_| plan.twins.is_some());
            let Some(settings) = settings.filter(|_| replies == Replies::Pair) else {
                return Err(wrong(self.next, "a judge compares a reply with a twin where none is planned"));
            };
            if self.void.contains(judge as usize) {
                return Err(wrong(self.next, "a judge is listened to that has failed a canary"));
            }
            if *drawn != settings.draws(&self.plan.seed, index) || (!drawn && text.is_none()) {
                return Err(wrong(
                    self.next,
                    "whether a sample is drawn for twins does not follow from the seed",
                ));
            }
            let answers = if text.is_some() {
                let question = Question::Twin(index, *side);
                let reply_first = self.answer(question, judge, Order::KingFirst, plan, replies)?;
                let twin_first = self.answer(question, judge, Order::ChallengerFirst, plan, replies)?;
                Some([reply_first, twin_first])
            } else {
                None
            };
            cells.push(TwinCell::new(judge, *side, *drawn, &plan.metrics, answers));
        }
        Ok(cells)
    }

    /// Whether both replies of a drawn sample were compared with their twins by a judge that gave `answers`. One that
    /// could not prepare itself was asked nothing.
    pub(super) fn check_drawn(
        &self,
        index: u32,
        plan: &JudgePlan,
        replies: Replies,
        compared: &[TwinCell],
        answers: [&RecordedAnswer; 2],
    ) -> Result<()> {
        let settings = self.plan.twins.filter(|_| plan.twins.is_some() && replies == Replies::Pair);
        let drawn = settings.is_some_and(|settings| settings.draws(&self.plan.seed, index));
        let asked = answers.iter().any(|answer| matches!(answer, RecordedAnswer::Answered(_)));
        if drawn && asked && compared.len() != Side::BOTH.len() {
            return Err(wrong(self.next, "the sample is drawn for twins, and a reply has none"));
        }
        Ok(())
    }
}
