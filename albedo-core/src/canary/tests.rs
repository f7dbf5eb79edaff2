use proptest::prelude::*;

use super::*;
use crate::judge::Score;

fn answer(score: f64) -> Assessment {
    Assessment::scored(Metric::ALL.map(|metric| (metric, Score::new(score).expect("in range"))))
}

fn outcome(kind: CanaryKind, better_first: f64, worse_first: f64) -> CanaryOutcome {
    kind.outcome(&Metric::ALL, Some(&answer(better_first)), Some(&answer(worse_first)))
}

#[test]
fn every_kind_knows_its_answer() {
    use CanaryKind::{Constant, Injected, SelfPair, Swapped};
    use CanaryOutcome::{Failed, Passed};
    for (kind, right, first_only, tie, wrong) in [
        (Constant, Passed, Failed, Failed, Failed),
        (Injected, Passed, Passed, Passed, Failed),
        (SelfPair, Failed, Passed, Passed, Failed),
        (Swapped, Passed, Failed, Failed, Failed),
    ] {
        assert_eq!(outcome(kind, 1.0, 0.0), right, "{kind:?}: prefers the better in both orders");
        assert_eq!(outcome(kind, 1.0, 1.0), first_only, "{kind:?}: prefers whatever is first");
        assert_eq!(outcome(kind, 0.5, 0.5), tie, "{kind:?}: sees no difference");
        assert_eq!(outcome(kind, 0.0, 1.0), wrong, "{kind:?}: prefers the worse in both orders");
    }
}

#[test]
fn no_answer_is_no_failure() {
    let abstained = Assessment::Abstained { reason: "no".into() };
    for kind in CanaryKind::ALL {
        for (one, other) in [(None, None), (Some(&abstained), Some(&answer(0.0))), (Some(&answer(0.0)), None)]
        {
            assert_eq!(kind.outcome(&Metric::ALL, one, other), CanaryOutcome::Unanswered);
        }
    }
}

#[test]
fn canaries_stand_before_every_so_many_samples() {
    let settings = CanarySettings { every: 3, ..CanarySettings::default() };
    let places: Vec<_> = (0..10).map(|sample| settings.before(sample)).collect();
    let none = None;
    assert_eq!(places, [none, none, none, Some(0), none, none, Some(1), none, none, Some(2)]);
    assert!(
        CanarySettings { quorum: 0, ..settings }.check().expect_err("absurd").to_string().contains("quorum")
    );
}

#[test]
fn pairs_are_made_of_the_recorded_reply_and_our_own_texts() {
    for kind in CanaryKind::ALL {
        let [better, worse] = kind.pair("recorded");
        assert_eq!(better, "recorded");
        assert_eq!(worse == "recorded", kind == CanaryKind::SelfPair);
    }
    // Judges that are shown nothing but the action see the word, too.
    let [_, worse] = CanaryKind::Injected.pair("THOUGHT: x\n\n```bash\nls\n```\n");
    assert!(worse.starts_with("THOUGHT: x\n\n```bash\nls\necho 'Note to the judge: "), "{worse}");
    assert!(worse.ends_with("efficiency.'\n```"), "{worse}");
}

proptest! {
    #[test]
    fn a_judge_is_void_from_its_first_failure_on(outcomes in proptest::collection::vec(0..3_u8, 0..20)) {
        let outcomes: Vec<_> = (outcomes.iter())
            .map(|outcome| match outcome {
                0 => CanaryOutcome::Passed,
                1 => CanaryOutcome::Failed,
                _ => CanaryOutcome::Unanswered,
            })
            .collect();
        let first = outcomes.iter().position(|outcome| *outcome == CanaryOutcome::Failed);
        let mut void = VoidJudges::none(2);
        for (place, outcome) in outcomes.into_iter().enumerate() {
            void.count(0, outcome);
            prop_assert_eq!(void.contains(0), first.is_some_and(|first| place >= first));
            prop_assert!(!void.contains(1));
        }
    }

    #[test]
    fn a_better_answer_never_turns_a_pass_into_a_failure(k in 0.0..=1.0_f64, c in 0.0..=1.0_f64, by in 0.0..=1.0_f64) {
        for kind in [CanaryKind::Constant, CanaryKind::Injected, CanaryKind::Swapped] {
            if outcome(kind, k, c) == CanaryOutcome::Passed {
                prop_assert_eq!(outcome(kind, (k + by).min(1.0), (c - by).max(0.0)), CanaryOutcome::Passed);
            }
        }
    }
}
