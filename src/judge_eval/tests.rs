use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::testing::{ScriptedJudge, small_duel};
use crate::{Comparison, DuelSettings, MemoryStore, Preparation, Prepared, Reach, Rule, Score, VirtualClock};

/// 100 pairs: `good` and `bad` replies in turn, half of the good ones longer.
fn pairs() -> Vec<LabelledPair> {
    let pair = |place: usize| {
        let good = format!("good {place}{}", if place.is_multiple_of(2) { " and long" } else { "" });
        let bad = format!("bad {place}{}", if place % 2 == 1 { " and long" } else { "" });
        let messages = vec![Message::new(MessageRole::User, format!("task {place}"))];
        let (a, b, label) = if place % 4 < 2 { (good, bad, Label::A) } else { (bad, good, Label::B) };
        let (a_finish, b_finish) = (FinishReason::Stop, FinishReason::Stop);
        LabelledPair { messages, reference: String::new(), a, a_finish, b, b_finish, label }
    };
    (0..100).map(pair).collect()
}

async fn evaluated(judges: Vec<ScriptedJudge>) -> Evaluated {
    let judges: Vec<_> = judges.into_iter().map(|judge| Arc::new(judge) as Arc<dyn Judge>).collect();
    Evaluation::default().run(&judges, &pairs(), &CallContext::new()).await.expect("evaluates")
}

fn place(request: &Comparison) -> usize {
    request.messages[0].content[5..].parse().expect("a number")
}

/// Right about 80 of the 100 pairs, whatever the order.
fn right_80() -> ScriptedJudge {
    ScriptedJudge::new("right", |request| {
        let good = request.first.text.starts_with("good");
        let right = !place(request).is_multiple_of(5);
        Ok(Assessment::scored([(Metric::Correctness, if good == right { Score::WIN } else { Score::LOSS })]))
    })
}

fn share(of: Option<Proportion>) -> f64 {
    of.expect("is there").share
}

#[tokio::test]
async fn a_judge_with_a_known_bias_has_the_figures_of_that_bias() {
    let first = ScriptedJudge::new("first", |_| Ok(Assessment::scored([(Metric::Correctness, Score::WIN)])));
    let longer = ScriptedJudge::preferring("longer", |reply| reply.len() as f64 / 100.0);
    let found = evaluated(vec![first, longer, right_80()]).await;
    let [first, longer, right] = &found.judges[..] else { panic!("three judges") };
    assert_eq!(found.pairs, 100);

    // Always the first: a tie over both orders, never right, never consistent.
    assert_eq!((share(first.accuracy), share(first.ties), share(first.consistent)), (0.0, 1.0, 0.0));
    assert_eq!((share(first.first), first.first.expect("is there").of), (1.0, 200));
    assert_eq!((first.longer, first.length_correlation), (None, None));
    let interval = first.accuracy.expect("is there").interval;
    assert!(interval.low == 0.0 && (interval.high - 0.036_217).abs() < 1e-5, "{interval:?}");

    // Always the longer: right where the good one is.
    assert_eq!((share(longer.accuracy), share(longer.longer)), (0.5, 1.0));
    assert_eq!((share(longer.consistent), share(longer.first)), (1.0, 0.5));
    assert!(longer.length_correlation.expect("varies") > 0.99, "{longer:?}");
    assert!(longer.kappa.expect("varies").kappa.abs() < 0.05, "{longer:?}");

    // Right in 80 of 100: interval of Clopper and Pearson.
    let accuracy = right.accuracy.expect("is there");
    assert_eq!((accuracy.share, accuracy.of), (0.8, 100));
    assert!((accuracy.interval.low - 0.708_2).abs() < 1e-3, "{accuracy:?}");
    assert!((accuracy.interval.high - 0.873_3).abs() < 1e-3, "{accuracy:?}");
    assert!((right.kappa.expect("varies").kappa - 0.6).abs() < 0.01, "{right:?}");
    assert_eq!((share(right.consistent), right.took.questions), (1.0, 200));

    // Of the three, the panel goes by the mean: the first judge says nothing.
    assert_eq!(found.panel.kappas.len(), 3);
    assert!(found.panel.agreement.is_some());
}

/// What `evaluation` of `judges` comes to by a clock that jumps.
fn evaluate(evaluation: &Evaluation, judges: &[&Arc<ScriptedJudge>]) -> Result<Evaluated, Stopped> {
    let judges: Vec<_> = judges.iter().map(|judge| Arc::clone(judge) as Arc<dyn Judge>).collect();
    let (clock, cx) = (VirtualClock::new(), CallContext::new());
    clock.run(evaluation.run_by(&clock, &judges, &pairs(), &cx)).expect("ends")
}

fn tie() -> Assessment {
    Assessment::scored([(Metric::Correctness, Score::TIE)])
}

#[test]
fn answers_that_are_no_scores_are_counted_and_leave_the_pair_out() {
    let judge = Arc::new(ScriptedJudge::new("odd", |request| match place(request) % 10 {
        0 => Ok(Assessment::Abstained { reason: "no".into() }),
        1 => Ok(Assessment::Unreadable { reason: "no".into(), usage: None, evidence: Box::default() }),
        2 => Err(Error::new(ErrorKind::Timeout, "ask", "slow")),
        _ => Ok(tie()),
    }));
    let found = evaluate(&Evaluation::default(), &[&judge]).expect("evaluates");
    let odd = &found.judges[0];
    assert_eq!((odd.abstained, odd.unreadable, odd.failed, odd.took.questions), (20, 20, 20, 200));
    assert_eq!((odd.accuracy.expect("is there").of, share(odd.ties)), (70, 1.0));
    assert_eq!((found.panel.agreement, found.stopped), (None, None));
    // As in a duel, what fails for a passing reason, or cannot be read, is asked for three times.
    assert_eq!(judge.asked().len(), 20 + 3 * 20 + 3 * 20 + 140);
    let marks: BTreeSet<_> = judge.asked().iter().map(|asked| asked.marks.nonce_text()).collect();
    assert_eq!(
        marks.len(),
        20 + 3 * 20 + 20 + 140,
        "another try has another nonce, if the one before was answered"
    );
}

#[test]
fn a_call_that_is_refused_for_a_passing_reason_is_tried_again() {
    let refused = Mutex::new(BTreeSet::new());
    let judge = Arc::new(ScriptedJudge::new("busy", move |request| {
        let question = (place(request), request.first.text.clone());
        if refused.lock().expect("unpoisoned").insert(question) {
            return Err(Error::new(ErrorKind::RateLimited, "ask", "slow down"));
        }
        Ok(tie())
    }));
    let found = evaluate(&Evaluation::default(), &[&judge]).expect("evaluates");
    assert_eq!((found.judges[0].failed, found.judges[0].accuracy.expect("is there").of), (0, 100));
    assert_eq!(found.judges[0].took.mean_seconds, 0.0, "a pause is not the judge's");
}

#[test]
fn the_first_error_that_reaches_further_ends_it_and_what_was_answered_is_kept() {
    let key = Arc::new(ScriptedJudge::new("key", |request| match place(request) {
        9 => Err(Error::new(ErrorKind::ConfigInvalid, "ask", "the key is refused")),
        _ => Ok(tie()),
    }));
    let next = Arc::new(ScriptedJudge::new("next", |_| Ok(tie())));
    let evaluation = Evaluation { in_flight: 4, ..Evaluation::default() };
    let Stopped { error, so_far } = evaluate(&evaluation, &[&key, &next]).expect_err("stops");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    let (so_far, asked) = (so_far.expect("some were answered"), key.asked().len());
    // Both orders of nine pairs, and what is under way beside the tenth.
    assert!((13..=25).contains(&asked), "{asked} questions of 200");
    let judged = &so_far.judges[0];
    assert_eq!((judged.took.questions, judged.failed, so_far.pairs), (asked as u64, 1, 100));
    assert!(judged.accuracy.expect("is there").of >= 6, "{judged:?}");
    assert!(so_far.stopped.expect("says why").contains("the key is refused"));
    assert_eq!((next.asked().len(), so_far.judges[1].took.questions), (0, 0), "nobody else is asked");

    // Nothing was answered: there is nothing to tell.
    let dead = Arc::new(ScriptedJudge::new("dead", |_| {
        Err(Error::new(ErrorKind::ResourceExhausted, "ask", "spent").with_reach(Reach::Duel))
    }));
    let stopped = evaluate(&evaluation, &[&dead]).expect_err("stops");
    assert!(stopped.so_far.is_none() && dead.asked().len() <= 4, "{:?}", dead.asked().len());
}

#[test]
fn one_budget_ends_it_for_all_judges_and_counts_what_they_write_before() {
    let usage = Some(Usage::counted(9, 2).with_price(0.25));
    let priced = move |name| {
        let scores = move |_: &Comparison| {
            let scores = [(Metric::Correctness, Score::TIE)].into();
            Ok(Assessment::Scored { scores, rationale: None, usage, evidence: None })
        };
        ScriptedJudge::new(name, scores)
    };
    let pairs = &pairs()[..2];
    let run = |judges: &[Arc<dyn Judge>], budget_usd| {
        let (clock, cx) = (VirtualClock::new(), CallContext::new());
        let evaluation = Evaluation { in_flight: 1, budget_usd, ..Evaluation::default() };
        clock.run(evaluation.run_by(&clock, judges, pairs, &cx)).expect("ends")
    };
    let judges: [Arc<dyn Judge>; 2] = [Arc::new(priced("one")), Arc::new(priced("other"))];
    let whole = run(&judges, Some(2.0)).expect("is enough");
    assert_eq!((whole.judges[0].took.usd, whole.judges[1].took.usd), (1.0, 1.0));
    let stopped = run(&judges, Some(1.5)).expect_err("is too little");
    assert_eq!(stopped.error.kind(), ErrorKind::ResourceExhausted);
    assert!(stopped.error.to_string().contains("limits.budget_usd"), "{}", stopped.error);
    let so_far = stopped.so_far.expect("some were answered");
    let questions = so_far.judges.iter().map(|judge| judge.took.questions).collect::<Vec<_>>();
    assert_eq!(questions, [4, 2]);
    assert!(run(&judges, Some(f64::NAN)).is_err_and(|stopped| stopped.so_far.is_none()));

    // A checklist that cannot be used is paid, and asked for again.
    let seen = Mutex::new(BTreeSet::new());
    let writer = priced("writer").with_preparation(move |request: &Preparation| {
        Ok(if seen.lock().expect("unpoisoned").insert(request.fence) {
            Prepared::Unusable { reason: "it is too short".into(), usage }
        } else {
            Prepared::Written { text: "a list".into(), usage }
        })
    });
    let judges: [Arc<dyn Judge>; 1] = [Arc::new(writer)];
    let found = run(&judges, None).expect("evaluates");
    assert_eq!(
        (found.judges[0].took.usd, found.judges[0].took.questions, found.judges[0].failed),
        (2.0, 4, 0)
    );
}

#[tokio::test]
async fn a_recorded_reply_is_judged_with_how_it_ended() {
    let (store, cx) = (MemoryStore::default(), CallContext::new());
    let mut settings =
        DuelSettings { samples: 4, rule: Rule::Margin { win_margin: 2.0 }, ..DuelSettings::default() };
    // The challenger's reply is cut.
    settings.generation.max_new_tokens = 4;
    let duel = small_duel().settings(settings).plan(&store, &cx).await.expect("plans");
    duel.run(&store, &cx).await.expect("runs");
    let bytes = store.record().expect("decided");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record");
    let pairs = recorded_pairs(&record).expect("pairs");
    assert_eq!(pairs.len(), 4);
    let judge = Arc::new(ScriptedJudge::new("reads", |_| Ok(tie())));
    let judges: [Arc<dyn Judge>; 1] = [judge.clone()];
    Evaluation::default().run(&judges, &pairs, &cx).await.expect("evaluates");
    for asked in judge.asked() {
        let by_text = [&asked.first, &asked.second].map(|reply| (&*reply.text, reply.finish));
        assert!(by_text.contains(&("ls", FinishReason::Stop)), "{by_text:?}");
        assert!(by_text.contains(&("ls -", FinishReason::Length)), "{by_text:?}");
    }
}

#[test]
fn a_line_that_is_no_pair_is_named() {
    let good = r#"{"prompt": "p", "a": "x", "b": "y", "label": "tie", "id": 7}"#;
    let chat = r#"{"messages": [{"role": "user", "content": "p"}], "a": "x", "b": "y", "label": "a"}"#;
    let pairs = read_pairs(&format!("{good}\n\n{chat}\n")).expect("reads");
    assert_eq!((pairs[0].label, pairs[1].label), (Label::Tie, Label::A));
    for (broken, words) in [
        ("{}", "missing field"),
        (r#"{"a": "x", "b": "y", "label": "a"}"#, "not exactly one of"),
        (r#"{"prompt": "p", "a": "x", "b": "y", "label": "c"}"#, "unknown variant"),
        (r#"{"prompt": "p", "a": "x", "b": "y", "label": "a", "better": 1}"#, "unknown field"),
    ] {
        let error = read_pairs(&format!("{good}\n{broken}")).expect_err(broken).to_string();
        assert!(error.contains(words) && error.contains("line: 2"), "{error}");
    }
    assert!(read_pairs("\n").expect_err("empty").to_string().contains("there are none"));
}
