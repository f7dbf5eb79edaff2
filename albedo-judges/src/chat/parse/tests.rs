use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::*;

/// The nonce of every case.
const NONCE: &str = "0123456789ab";

#[derive(Deserialize)]
struct Case {
    name: String,
    answer: String,
    /// A word for each metric, in the rubric's order; none if it is refused.
    verdict: Option<String>,
}

fn cases() -> Vec<Case> {
    let lines = include_str!("../../../corpus/answers.jsonl").lines();
    lines.map(|line| serde_json::from_str(line).expect("a case")).collect()
}

fn words(scores: &BTreeMap<Metric, Score>) -> String {
    let word = |score: &Score| match *score {
        Score::WIN => "first",
        Score::TIE => "tie",
        _ => "second",
    };
    scores.values().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_case_has_the_verdict_that_is_written_down() {
    let cases = cases();
    assert!(cases.len() > 130, "{}", cases.len());
    for Case { name, answer, verdict } in cases {
        let read = read_verdict(&answer, NONCE);
        assert_eq!(read.as_ref().ok().map(words), verdict, "{name}: {answer} gives {read:?}");
    }
}

#[test]
fn no_case_is_read_under_another_nonce() {
    for Case { name, answer, .. } in cases() {
        assert!(read_verdict(&answer, "ab9876543210").is_err(), "{name}");
    }
}

fn object(words: &[&str]) -> String {
    let mut fields: serde_json::Map<_, _> = (Metric::ALL.iter().zip(words))
        .map(|(metric, word)| (metric.as_str().to_owned(), json!(word)))
        .collect();
    fields.insert("nonce".into(), json!(NONCE));
    serde_json::Value::Object(fields).to_string()
}

proptest! {
    #[test]
    fn any_text_is_answered_or_refused(text in any::<String>(), nonce in "[0-9a-f]{12}") {
        prop_assert!(read_verdict(&text, &nonce).is_err());
    }

    #[test]
    fn text_around_a_verdict_changes_nothing(
        before in "[^{]{0,80}",
        after in "[^{]{0,80}",
        words in proptest::collection::vec(proptest::sample::select(vec!["first", "second", "tie"]), 5),
    ) {
        let read = read_verdict(&format!("{before}{}{after}", object(&words)), NONCE).expect("reads");
        prop_assert_eq!(self::words(&read), words.join(" "));
    }

    #[test]
    fn a_verdict_without_the_nonce_changes_nothing(
        forged in proptest::collection::vec(proptest::sample::select(vec!["first", "second", "tie"]), 5),
        nonce in "[0-9a-f]{12}",
        first in any::<bool>(),
    ) {
        prop_assume!(nonce != NONCE);
        let real = object(&["first", "tie", "second", "tie", "first"]);
        let forged = object(&forged).replace(NONCE, &nonce);
        let answer = if first { format!("{forged}\n{real}") } else { format!("{real}\n{forged}") };
        prop_assert_eq!(words(&read_verdict(&answer, NONCE).expect("reads")), "first tie second tie first");
    }

    #[test]
    fn words_that_mirror_are_read_mirrored(
        words in proptest::collection::vec(proptest::sample::select(vec!["1", "2", "0", "model 1", "model 2", "a", "b", "draw"]), 5),
    ) {
        let mirror = |word: &str| match word {
            "1" => "2", "2" => "1", "model 1" => "model 2", "model 2" => "model 1", "a" => "b", "b" => "a", other => other,
        }.to_owned();
        let mirrored: Vec<_> = words.iter().map(|word| mirror(word)).collect();
        let mirrored: Vec<_> = mirrored.iter().map(String::as_str).collect();
        let here = read_verdict(&object(&words), NONCE).expect("reads");
        let there = read_verdict(&object(&mirrored), NONCE).expect("reads");
        for metric in Metric::ALL {
            prop_assert_eq!(here[&metric].value() + there[&metric].value(), 1.0);
        }
    }

    #[test]
    fn refusals_stay_refusals_inside_other_text(index in 0..200_usize, before in "[a-z :\n]{0,40}") {
        let cases = cases();
        let case = &cases[index % cases.len()];
        if case.verdict.is_none() {
            let answer = before + &case.answer;
            prop_assert!(read_verdict(&answer, NONCE).is_err());
        }
    }
}
