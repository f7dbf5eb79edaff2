use std::fs;
use std::sync::Arc;

use super::*;
use crate::decision::Rule;
use crate::digest::canonical_json;
use crate::duel::Duel;
use crate::duel::scripted::*;
use crate::judge::Score;
use crate::plan::Lanes;
use crate::record::{CanonicalRecord, Digests, FORMAT, FileStore, Regenerated, regenerate};
use crate::rng::{Stream, Use};

fn scripted() -> Duel {
    let judges: Vec<Arc<dyn crate::Judge>> =
        vec![Asked::new("fair", fair), Asked::new("biased", always_first)];
    duel(Scripted::new("plain"), Scripted::new("better"), judges)
}

type Change = Box<dyn FnOnce(&mut Vec<RecordLine>)>;

async fn recorded() -> (CanonicalRecord, Record) {
    let record = run(&scripted()).await.1.record().expect("published");
    let read = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    (record, read)
}

async fn verified(record: &Record) -> Result<Verification> {
    verify_record(record, &VerifyOptions::default(), &CallContext::new()).await
}

/// The record with `change` made to its lines, and a digest that fits.
fn invented(
    (bytes, record): &(CanonicalRecord, Record),
    change: impl FnOnce(&mut Vec<RecordLine>),
) -> Record {
    let mut changed = record.lines.clone();
    change(&mut changed);
    let mut lines = Vec::new();
    for line in &changed {
        lines.extend(canonical_json(line).expect("writes"));
        lines.push(b'\n');
    }
    let format = match changed[0] {
        RecordLine::Header { format } => format,
        _ => FORMAT,
    };
    let digests = Digests { format, lines: Digest::of(&lines), blobs: Digest::of(&bytes.blobs) };
    Record::from_bytes(&lines, &bytes.blobs, digests.root()).expect("well-formed")
}

#[tokio::test]
async fn a_record_verifies_by_itself_and_against_its_tasks() {
    let (_, record) = recorded().await;
    let tasks = rows();
    let options =
        VerifyOptions { expect: Some(record.digest), tasks: Some(&*tasks), ..VerifyOptions::default() };
    let verification = verify_record(&record, &options, &CallContext::new()).await.expect("verifies");
    assert_eq!((verification.samples, verification.answers), (8, 32));
    assert!(verification.draws > 8 && verification.tasks);
    assert_eq!(&verification.plan, record.plan());
}

#[tokio::test]
async fn any_altered_byte_is_found_and_the_file_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    scripted().run(&store, &CallContext::new()).await.expect("runs");
    drop(store);
    verify(folder.path(), &VerifyOptions::default(), &CallContext::new()).await.expect("verifies");
    let names = ["record.jsonl", "record.blobs", "record.digest"];
    let mut files = names.map(|name| fs::read(folder.path().join(name)).expect("reads"));
    let places: Vec<_> =
        (0..3).flat_map(|file| (0..files[file].len()).map(move |position| (file, position))).collect();
    let mut random = Stream::new(1, Use::Bootstrap);
    for _ in 0..10_000 {
        let (file, position) = places[random.below(places.len() as u64) as usize];
        let flipped = 1 + random.below(255) as u8;
        files[file][position] ^= flipped;
        let error = Record::from_files(&files[0], &files[1], &files[2]).expect_err("altered").to_string();
        assert!(error.contains(&format!("file: {}", names[file])), "{} {position}: {error}", names[file]);
        files[file][position] ^= flipped;
    }
}

#[tokio::test]
async fn bytes_before_between_and_after_are_found() {
    let (bytes, _) = recorded().await;
    for (from, to) in
        [("\n", "\n\n"), ("{", " {"), (":", ": "), ("\n", "\r\n"), ("\"line\"", "\"extra\":1,\"line\"")]
    {
        let lines = String::from_utf8_lossy(&bytes.lines).replacen(from, to, 1).into_bytes();
        let digests = Digests { format: FORMAT, lines: Digest::of(&lines), blobs: Digest::of(&bytes.blobs) };
        let error = Record::from_bytes(&lines, &bytes.blobs, digests.root()).expect_err("not canonical");
        assert!(error.to_string().contains("file: record.jsonl"), "{error}");
    }
    let mut blobs = bytes.blobs.clone();
    crate::record::blobs::BlobIndex::default().append("unused", &mut blobs);
    let digests = Digests { format: FORMAT, lines: Digest::of(&bytes.lines), blobs: Digest::of(&blobs) };
    let error = Record::from_bytes(&bytes.lines, &blobs, digests.root()).expect_err("unused");
    assert!(error.to_string().contains("a text is not named by a line"), "{error}");
}

#[tokio::test]
async fn an_invented_record_contradicts_itself_at_a_line() {
    let (_, record) = recorded().await;
    let place =
        |wanted: fn(&RecordLine) -> bool| record.lines.iter().position(wanted).expect("a line of that kind");
    let draw = place(|line| matches!(line, RecordLine::Draw(_)));
    let reply = place(|line| matches!(line, RecordLine::Reply { .. }));
    let answer = place(|line| matches!(line, RecordLine::Assessment { .. }));
    let cluster = place(|line| matches!(line, RecordLine::Cluster(_)));
    let last = record.lines.len() - 1;
    let changes: Vec<(&str, Change)> = vec![
        (
            "`margin` does not follow",
            Box::new(move |lines| {
                if let RecordLine::Verdict(verdict) = &mut lines[last] {
                    verdict.margin += 1.0;
                }
            }),
        ),
        (
            "`judges[1].flips` does not follow",
            Box::new(move |lines| {
                if let RecordLine::Verdict(verdict) = &mut lines[last] {
                    verdict.judges[1].flips = 0;
                }
            }),
        ),
        (
            "`cells[0].scored.difference.correctness` does not follow",
            Box::new(move |lines| {
                if let RecordLine::Assessment { answer, .. } = &mut lines[answer] {
                    *answer = RecordedAnswer::Answered(Assessment::scored([(
                        crate::Metric::Correctness,
                        Score::WIN,
                    )]));
                }
            }),
        ),
        (
            "other metrics than its own",
            Box::new(move |lines| {
                if let RecordLine::Assessment { answer, .. } = &mut lines[answer] {
                    *answer =
                        RecordedAnswer::Answered(Assessment::scored([(crate::Metric::Progress, Score::WIN)]));
                }
            }),
        ),
        (
            "missing for no reason",
            Box::new(move |lines| {
                if let RecordLine::Assessment { answer, .. } = &mut lines[answer] {
                    *answer = RecordedAnswer::Missing { kind: None };
                }
            }),
        ),
        (
            "the row recorded is",
            Box::new(move |lines| {
                if let RecordLine::Draw(draw) = &mut lines[draw] {
                    draw.row += 1;
                }
            }),
        ),
        (
            "the outcome recorded is Repeated",
            Box::new(move |lines| {
                if let RecordLine::Draw(draw) = &mut lines[draw] {
                    draw.outcome = DrawOutcome::Repeated;
                }
            }),
        ),
        ("this is not the king's reply to sample 0", Box::new(move |lines| lines.swap(reply, reply + 1))),
        ("this is not the answer of judge `fair`", Box::new(move |lines| lines.swap(answer, answer + 2))),
        ("this is not the cluster of sample 0", Box::new(move |lines| drop(lines.remove(cluster)))),
        (
            "the verdict comes before the rule has decided",
            Box::new(move |lines| {
                let verdict = lines.remove(last);
                lines.truncate(cluster + 1);
                lines.push(verdict);
            }),
        ),
        (
            "`decision.evidence",
            Box::new(|lines| {
                if let RecordLine::Plan { plan } = &mut lines[1] {
                    plan.rule = Rule::Margin { win_margin: 2.0 };
                }
            }),
        ),
        (
            "the row recorded is",
            Box::new(|lines| {
                if let RecordLine::Plan { plan } = &mut lines[1] {
                    plan.seed = crate::Seed::from(9);
                }
            }),
        ),
        (
            "a judge is on the panel twice",
            Box::new(|lines| {
                if let RecordLine::Plan { plan } = &mut lines[1] {
                    plan.judges[1] = plan.judges[0].clone();
                }
            }),
        ),
    ];
    for (message, change) in changes {
        let mut invented = record.clone();
        change(&mut invented.lines);
        let error = verified(&invented).await.expect_err(message).to_string();
        assert!(error.contains(message), "{message}: {error}");
        assert!(error.contains("file: record.jsonl, line: "), "{error}");
    }
}

#[tokio::test]
async fn an_invented_record_that_agrees_with_itself_fails_its_digest() {
    let recorded = recorded().await;
    let invented = invented(&recorded, |lines| {
        for line in lines {
            if let RecordLine::Reply { reply: RecordedReply::Completed { prompt_tokens, .. }, .. } = line {
                *prompt_tokens = prompt_tokens.map(|tokens| tokens + 1);
            }
        }
    });
    verified(&invented).await.expect("agrees with itself");
    let options = VerifyOptions { expect: Some(recorded.1.digest), ..VerifyOptions::default() };
    let error = verify_record(&invented, &options, &CallContext::new()).await.expect_err("another");
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_reply_has_as_many_tokens_as_it_says() {
    let (_, record) = &recorded().await;
    let sampled = |record: &Record| {
        let mut replies = record.lines.iter().filter_map(|line| match line {
            RecordLine::Reply { reply: RecordedReply::Completed { tokens, .. }, .. } => tokens.clone(),
            _ => None,
        });
        replies.next().expect("the backend tells the tokens")
    };
    let first = sampled(record);
    assert_eq!((first.ids.len(), first.logit_gaps), (2, Some(vec![250, 65_535])));
    let recorded = recorded().await;
    let changes: [(&str, Change); 3] = [
        ("another number of tokens", Box::new(|lines| for_tokens(lines, |tokens| tokens.ids.push(7)))),
        (
            "another number of tokens",
            Box::new(|lines| for_tokens(lines, |tokens| tokens.logit_gaps = Some(vec![1]))),
        ),
        ("which its format does not know", Box::new(|lines| lines[0] = RecordLine::Header { format: 2 })),
    ];
    for (expected, change) in changes {
        let error = verified(&invented(&recorded, change)).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

fn for_tokens(lines: &mut [RecordLine], change: impl Fn(&mut crate::SampledTokens)) {
    for line in lines {
        if let RecordLine::Reply { reply: RecordedReply::Completed { tokens: Some(tokens), .. }, .. } = line {
            change(tokens);
        }
    }
}

#[tokio::test]
async fn invented_facts_of_the_draw_fail_against_the_tasks() {
    let recorded = recorded().await;
    let invented = invented(&recorded, |lines| {
        for line in lines {
            match line {
                RecordLine::Sample { repo, .. } => *repo = "another".into(),
                RecordLine::Cluster(cluster) => cluster.stratum = "another".into(),
                _ => {}
            }
        }
    });
    verified(&invented).await.expect("agrees with itself");
    let tasks = rows();
    let options = VerifyOptions { expect: None, tasks: Some(&*tasks), ..VerifyOptions::default() };
    let error = verify_record(&invented, &options, &CallContext::new()).await.expect_err("invented");
    assert!(error.to_string().contains("the repository is not what the tasks have"), "{error}");
}

/// The verified record of a duel after `previous`, seeded and on terms of its own.
async fn follow(
    previous: Option<Digest>,
    challenger: &'static str,
    seed: u64,
    terms: crate::Terms,
) -> Verification {
    let settings = crate::DuelSettings { previous, seed: crate::Seed::from(seed), terms, ..settings() };
    let [king, challenger] = ["plain", challenger].map(|name| Scripted::new(name).contestant());
    let judges: Vec<Arc<dyn crate::Judge>> = vec![Asked::new("fair", fair)];
    let duel = planned(&settings, king, challenger, judges).expect("plans");
    let record = run(&duel).await.1.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    verified(&record).await.expect("verifies")
}

#[tokio::test]
async fn records_of_a_reign_are_a_chain() {
    let budget = crate::reign::ErrorBudget::new(0.05).expect("a budget");
    let follow = async |previous, challenger, attempt| {
        follow(previous, challenger, attempt, budget.terms(attempt)).await
    };
    let first = follow(None, "equal", 1).await;
    let second = follow(Some(first.digest), "better", 4).await;
    let chain = verify_chain(&[first.clone(), second.clone()]).expect("a chain");
    assert!((chain.spent - 4e-4).abs() < 1e-12, "{chain:?}");
    assert!(chain.budget.is_some_and(|budget| (budget - 0.05).abs() < 1e-12), "{chain:?}");
    let skipped = follow(Some(first.digest), "other", 5).await;
    let error = verify_chain(&[first.clone(), second.clone(), skipped]).expect_err("no chain");
    assert!(error.to_string().contains("does not name the one before it"), "{error}");
    let after = follow(Some(second.digest), "other", 6).await;
    let error = verify_chain(&[second, after]).expect_err("dethroned");
    assert!(error.to_string().contains("ended the reign"), "{error}");
}

#[tokio::test]
async fn a_chain_spends_one_budget() {
    use crate::Terms::{Reign, Standalone};
    let broken = async |first, second, seed| {
        let first = follow(None, "equal", 1, first).await;
        let second = follow(Some(first.digest), "other", seed, second).await;
        verify_chain(&[first, second]).err().map(|error| error.message().to_owned()).unwrap_or_default()
    };
    let reign = |attempt, share| Reign { attempt, share };
    for (first, second, seed, why) in [
        (reign(1, 2e-4), reign(1, 2e-4), 2, "its attempt is not after"),
        // Each of them would crown an equal challenger with a chance of 40 %.
        (reign(1, 0.4), reign(2, 0.4), 2, "no error budget gives"),
        (reign(1, 2e-4), reign(2, 4e-4), 2, "is not what the reign's error budget gives"),
        (reign(1, 2e-4), reign(2, 2e-4), 1, "has its seed"),
        (reign(1, 2e-4), Standalone { alpha: 0.05 }, 2, "the other stands alone"),
    ] {
        let message = broken(first, second, seed).await;
        assert!(message.contains(why), "{why}: {message}");
    }
    assert_eq!(
        broken(reign(1, 2e-4), reign(201, 9.404_985e-6), 2).await,
        "its share is not what the reign's error budget gives its attempt"
    );
    let tail = crate::reign::ErrorBudget::new(0.05).expect("a budget").share(201);
    assert_eq!(broken(reign(200, 2e-4), reign(201, tail), 2).await, "");
}

#[tokio::test]
async fn replies_are_generated_again_and_others_told_apart() {
    let (_, record) = recorded().await;
    let sessions = ["plain", "better"].map(|name| Scripted::new(name).session());
    let again = regenerate(&record, &sessions, 5, 1, &CallContext::new()).await.expect("generates");
    assert_eq!(again.len(), 5);
    assert!(again.iter().all(|reply| reply.difference.is_none()));
    assert_ne!(again, regenerate(&record, &sessions, 5, 2, &CallContext::new()).await.expect("generates"));

    let mut liar = Scripted::new("poorer");
    liar.model = sessions[0].model().clone();
    let liars = [liar.session(), Arc::clone(&sessions[1])];
    let again = regenerate(&record, &liars, 100, 1, &CallContext::new()).await.expect("generates");
    assert_eq!(again.len(), 16);
    for Regenerated { side, difference, .. } in again {
        assert_eq!(difference.map(|difference| difference.character), (side == Side::King).then_some(1));
    }
    let mut other_tokens = record.clone();
    for_tokens(&mut other_tokens.lines, |tokens| tokens.ids[0] += 1);
    let again = regenerate(&other_tokens, &sessions, 100, 1, &CallContext::new()).await.expect("generates");
    assert!(again.iter().all(|reply| reply.difference.is_some_and(|other| other.token == Some(0))));

    let [king, challenger] = sessions;
    let error =
        regenerate(&record, &[challenger, king], 1, 1, &CallContext::new()).await.expect_err("swapped");
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_self_duel_in_two_lanes_differs_by_seed_alone_and_verifies() {
    let duel_in = |challenger| {
        let lanes = Lanes { king: 0, challenger };
        let settings = crate::DuelSettings { lanes, ..settings() };
        let [king, challenger] = ["plain"; 2].map(|name| Scripted::new(name).contestant());
        planned(&settings, king, challenger, vec![Asked::new("fair", fair)]).expect("plans")
    };
    let (shared, apart) = (duel_in(0), duel_in(1));
    for sample in 0..8 {
        let seeds = |duel: &Duel| Side::BOTH.map(|side| duel.plan().request_seed(sample, side));
        assert_eq!(seeds(&shared)[0], seeds(&shared)[1]);
        assert_eq!(seeds(&shared)[0], seeds(&apart)[0], "the king's lane is the same");
        assert_ne!(seeds(&apart)[0], seeds(&apart)[1]);
    }
    let written =
        |duel: &Duel| String::from_utf8(canonical_json(duel.plan()).expect("writes")).expect("text");
    assert!(!written(&shared).contains("lanes"), "records of one lane keep their bytes");
    assert!(written(&apart).contains(r#""lanes":{"challenger":1,"king":0}"#));

    let record = run(&apart).await.1.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    assert_eq!(verified(&record).await.expect("verifies").plan.lanes, Lanes { king: 0, challenger: 1 });
    for sample in record.samples() {
        let texts = sample.replies.iter().map(|reply| match reply {
            RecordedReply::Completed { text, .. } => record.text(text).expect("named"),
            _ => panic!("missing"),
        });
        let texts: Vec<_> = texts.collect();
        assert_ne!(texts[0], texts[1]);
    }
    let sessions = ["plain"; 2].map(|name| Scripted::new(name).session());
    let again = regenerate(&record, &sessions, 100, 1, &CallContext::new()).await.expect("generates");
    assert!(again.len() == 16 && again.iter().all(|reply| reply.difference.is_none()));
}

/// Prepares itself, answers with evidence, and now and then so that nobody can
/// read it.
#[derive(Debug)]
struct Evident(crate::Identity, std::sync::Mutex<std::collections::BTreeSet<[String; 2]>>);

#[async_trait::async_trait]
impl crate::Judge for Evident {
    fn identity(&self) -> &crate::Identity {
        &self.0
    }

    fn profile(&self) -> crate::JudgeProfile {
        crate::JudgeProfile::new([crate::Metric::Correctness]).with_preparation()
    }

    async fn prepare(&self, request: &crate::Preparation, _: &CallContext) -> Result<crate::Prepared> {
        let text = format!("[\"is it {}?\"]", request.fence.short());
        Ok(crate::Prepared::Written { text, usage: None })
    }

    async fn compare(&self, request: &crate::Comparison, _: &CallContext) -> Result<Assessment> {
        let nonce = request.marks.nonce_text();
        let evidence = crate::Evidence {
            answer: format!("{{\"nonce\":\"{nonce}\"}}"),
            reasoning: Some("in the journal only".into()),
            nonce: Some(nonce),
            first: vec![crate::Alteration { what: "template-token".into(), count: 1 }],
            second: vec![],
        };
        let evidence = Box::new(evidence);
        // At most once a question, so that no cell is missing.
        let pair = [&request.first, &request.second].map(|reply| reply.text.to_string());
        if request.marks.nonce.as_bytes()[0] < 128 && self.1.lock().expect("unpoisoned").insert(pair) {
            let reason = "now and then".into();
            return Ok(Assessment::Unreadable { reason, usage: None, evidence });
        }
        let Assessment::Scored { scores, .. } = fair(request)? else { unreachable!("scores") };
        Ok(Assessment::Scored { scores, rationale: None, usage: None, evidence: Some(evidence) })
    }
}

fn evident() -> Arc<dyn crate::Judge> {
    let identity = crate::Identity { name: "evident".into(), version: "1".into(), config: Digest::of("") };
    Arc::new(Evident(identity, std::sync::Mutex::default()))
}

#[tokio::test]
async fn scores_read_from_an_answer_to_another_question_do_not_verify() {
    let duel = duel(Scripted::new("plain"), Scripted::new("better"), vec![evident()]);
    let bytes = run(&duel).await.1.record().expect("published");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads");
    assert_eq!(verified(&record).await.expect("verifies").answers, 16);
    let recorded = (bytes, record);
    let asked = |line: &RecordLine| match line {
        RecordLine::Assessment { asked, .. } => Some(*asked),
        _ => None,
    };
    assert!(recorded.1.lines.iter().filter_map(asked).any(|asked| asked == 2), "one was asked again");
    let place = recorded.1.lines.iter().position(|line| asked(line) == Some(1)).expect("an answer");
    let changes: [(&str, Change); 4] = [
        (
            "another nonce",
            Box::new(move |lines| {
                if let RecordLine::Assessment { asked, .. } = &mut lines[place] {
                    *asked = 2;
                }
            }),
        ),
        (
            "another nonce",
            Box::new(move |lines| {
                if let RecordLine::Assessment {
                    answer: RecordedAnswer::Answered(Assessment::Scored { evidence: Some(evidence), .. }),
                    ..
                } = &mut lines[place]
                {
                    evidence.nonce = Some("0123456789ab".into());
                }
            }),
        ),
        (
            "reasoning belongs into the journal",
            Box::new(move |lines| {
                if let RecordLine::Assessment {
                    answer: RecordedAnswer::Answered(Assessment::Scored { evidence: Some(evidence), .. }),
                    ..
                } = &mut lines[place]
                {
                    evidence.reasoning = Some("because".into());
                }
            }),
        ),
        (
            "nothing to judge",
            Box::new(move |lines| {
                for line in lines {
                    if let RecordLine::Preparation { judge, .. } = line {
                        *judge = 1;
                    }
                }
            }),
        ),
    ];
    for (expected, change) in changes {
        let error = verified(&invented(&recorded, change)).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A duel in which the king's arithmetic overflows on sample 3.
async fn overflowing(settings: &crate::DuelSettings, judges: Vec<Arc<dyn crate::Judge>>) -> Duel {
    let king = Loads::new("plain", vec![seeds([3])]).contestant(Side::King).await;
    let challenger = Loads::new("better", vec![]).contestant(Side::Challenger).await;
    planned(settings, king, challenger, judges).expect("plans")
}

#[tokio::test]
async fn a_lost_sample_follows_from_the_replies() {
    let duel = overflowing(&settings(), vec![Asked::new("fair", fair)]).await;
    let bytes = run(&duel).await.1.record().expect("published");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads");
    assert_eq!(verified(&record).await.expect("verifies").outcome, Outcome::Dethroned);
    let recorded = (bytes, record);
    let reply = |line: &mut RecordLine, becomes: fn() -> RecordedReply| {
        if let RecordLine::Reply { reply, .. } = line
            && reply.overflowed()
        {
            *reply = becomes();
        }
    };
    let changes: Vec<(&str, Change)> = vec![
        (
            "`cells[0]",
            Box::new(move |lines| {
                for line in lines {
                    reply(line, || RecordedReply::Missing { kind: ErrorKind::Overflow });
                }
            }),
        ),
        (
            "`overflows",
            Box::new(|lines| {
                if let Some(RecordLine::Verdict(verdict)) = lines.last_mut() {
                    verdict.overflows.challenger = 1;
                }
            }),
        ),
        (
            "`outcome`",
            Box::new(|lines| {
                if let Some(RecordLine::Verdict(verdict)) = lines.last_mut() {
                    verdict.outcome = Outcome::Forfeit(crate::verdict::Forfeit::Overflow);
                }
            }),
        ),
        ("which its format does not know", Box::new(|lines| lines[0] = RecordLine::Header { format: 2 })),
    ];
    for (expected, change) in changes {
        let error = verified(&invented(&recorded, change)).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// Refuses what "better" says, and nothing else.
fn filter(request: &crate::Comparison) -> Result<Assessment> {
    if [&request.first, &request.second].iter().any(|reply| reply.text.starts_with("better")) {
        return Err(Error::new(ErrorKind::Refused, "ask the judge", "filtered"));
    }
    always_first(request)
}

async fn recorded_of(challenger: &'static str, judge: Arc<dyn crate::Judge>) -> (CanonicalRecord, Record) {
    let bytes = run(&duel(Scripted::new("plain"), Scripted::new(challenger), vec![judge])).await.1;
    let bytes = bytes.record().expect("published");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads");
    verified(&record).await.expect("verifies");
    (bytes, record)
}

#[tokio::test]
async fn missing_cells_follow_from_answers_and_neutral_text() {
    let recorded = recorded_of("better", Asked::new("filter", filter)).await;
    let probes = |lines: &[RecordLine]| {
        lines.iter().position(|line| matches!(line, RecordLine::Probes { .. })).expect("is there")
    };
    let changes: Vec<(&str, Change)> = vec![
        (
            "`cells[0]",
            Box::new(move |lines| {
                let place = probes(lines);
                if let RecordLine::Probes { probes, .. } = &mut lines[place]
                    && let Some(sides) = &mut probes.sides
                {
                    sides.challenger[1] = crate::missing::Probed::Scored;
                }
            }),
        ),
        (
            "what a judge made of neutral text is missing",
            Box::new(move |lines| drop(lines.remove(probes(lines)))),
        ),
        (
            "or is not called for",
            Box::new(move |lines| {
                let place = probes(lines);
                if let RecordLine::Probes { probes, .. } = &mut lines[place] {
                    probes.sides = None;
                }
            }),
        ),
        (
            "two replies count as the same that are not",
            Box::new(|lines| {
                let answers = lines.iter_mut().filter_map(|line| match line {
                    RecordLine::Assessment { answer, .. } => Some(answer),
                    _ => None,
                });
                answers.take(2).for_each(|answer| *answer = RecordedAnswer::Identical);
            }),
        ),
    ];
    for (expected, change) in changes {
        let error = verified(&invented(&recorded, change)).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let recorded = recorded_of("plain", Asked::new("first", always_first)).await;
    let asked = invented(&recorded, |lines| {
        for line in lines {
            if let RecordLine::Assessment { answer, .. } = line {
                *answer = RecordedAnswer::Missing { kind: Some(ErrorKind::Timeout) };
            }
        }
    });
    let error = verified(&asked).await.expect_err("they were not asked about").to_string();
    assert!(error.contains("a judge was asked about two replies that are the same"), "{error}");
}

#[tokio::test]
async fn a_lost_sample_is_reproduced_or_told_apart() {
    let duel = overflowing(&settings(), vec![Asked::new("fair", fair)]).await;
    let bytes = run(&duel).await.1.record().expect("published");
    let record = Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads");
    let cx = CallContext::new();
    let king = Loads::new("plain", vec![seeds([3])]).contestant(Side::King).await;
    let sessions = [king.session(&cx).await.expect("is loaded"), Scripted::new("better").session()];
    let again = regenerate(&record, &sessions, 100, 1, &cx).await.expect("generates");
    assert!(again.len() == 16 && again.iter().all(|reply| reply.difference.is_none()));
    let sessions = ["plain", "better"].map(|name| Scripted::new(name).session());
    let again = regenerate(&record, &sessions, 100, 1, &cx).await.expect("generates");
    let differing: Vec<_> = again.iter().filter(|reply| reply.difference.is_some()).collect();
    assert_eq!(differing.len(), 1);
    assert_eq!((differing[0].sample, differing[0].side), (3, Side::King));
    assert!(differing[0].difference.is_some_and(|difference| difference.overflow.is_some()));
}

#[tokio::test]
#[ignore = "writes the fixture of the current format, which only changes with the format"]
async fn write_the_fixture() {
    let settings = crate::DuelSettings { previous: Some(Digest::of("before")), ..settings() };
    let judges: Vec<Arc<dyn crate::Judge>> = vec![evident(), Asked::new("biased", always_first)];
    let duel = overflowing(&settings, judges).await;
    let store = FileStore::create(format!("tests/fixtures/record-{FORMAT}")).expect("creates");
    duel.run(&store, &CallContext::new()).await.expect("runs");
}
