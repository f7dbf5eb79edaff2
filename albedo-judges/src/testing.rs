//! What the tests of all judges share: a conversation as it is recorded, and
//! the conformance suite.

use std::sync::Arc;

use albedo_core::conformance::{JudgeFixture, check_comparison};
use albedo_core::{
    Assessment, CallContext, Candidate, Comparison, FinishReason, Judge, Message, MessageRole, Metric,
};

/// Looking for a function.
pub(crate) const SEARCH: &str =
    "THOUGHT: Let me read `join` line by line.\n\n```bash\ngrep -n -A 5 \"def join\" pointer.py\n```";

/// Running the tests.
pub(crate) const TEST: &str = "THOUGHT: I run the same tests again to confirm the fix.\n\n```bash\npython -m unittest test_pointer 2>&1 | tail -n 20\n```";

/// Changing a line.
pub(crate) const EDIT: &str = "THOUGHT: Here the arguments are swapped.\n\n```bash\nsed -i '20s/replace(\"~1\", \"\\/\")/replace(\"\\/\", \"~1\")/' pointer.py\n```";

/// Changing a line with a program.
pub(crate) const REWRITE: &str = "THOUGHT: The constant is off by one.\n\n```bash\npython - <<'EOF'\nfrom pathlib import Path\npath = Path(\"pointer.py\")\ntext = path.read_text()\nold = \"depth = 2001\"\nassert text.count(old) == 1\npath.write_text(text.replace(old, \"depth = 2000\"))\nEOF\n```";

/// Handing in.
pub(crate) const HAND_IN: &str =
    "THOUGHT: All tests pass, so I hand it in.\n\n```bash\necho TASK_COMPLETE\n```";

/// One reply of each kind.
pub(crate) const RECORDED: [&str; 5] = [SEARCH, TEST, EDIT, REWRITE, HAND_IN];

/// A comparison of two finished replies in a recorded conversation.
pub(crate) fn comparison(reference: &str, first: &str, second: &str) -> Comparison {
    let candidate = |text: &str| Candidate::new(text, FinishReason::Stop);
    let messages = [
        (
            MessageRole::System,
            "You repair small Python projects. Answer every turn with a line that starts with THOUGHT: and \
             then exactly one bash block. When the tests pass, hand in with `echo TASK_COMPLETE`.",
        ),
        (MessageRole::User, "slashref: test_join fails. Steps: run `test_pointer.py`."),
        (MessageRole::Assistant, "THOUGHT: I list its files first.\n\n```bash\nls\n```"),
        (
            MessageRole::User,
            "<returncode>0</returncode>\n<output>\nREADME.md\npointer.py\ntest_pointer.py\n</output>",
        ),
    ];
    Comparison::new(
        messages.map(|(role, content)| Message::new(role, content)),
        reference,
        candidate(first),
        candidate(second),
    )
}

/// The score of `metric` in `judge`'s answer to `request`.
pub(crate) async fn score(judge: &dyn Judge, request: &Comparison, metric: Metric) -> f64 {
    match judge.compare(request, &CallContext::new()).await.expect("answers") {
        Assessment::Scored { scores, .. } => scores[&metric].value(),
        other => panic!("not scored: {other:?}"),
    }
}

/// Checks `judge`'s answers to `request`, which a property test made up.
pub(crate) fn check_laws(judge: &dyn Judge, request: &Comparison) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let fixture = JudgeFixture::new(Vec::new());
    runtime.block_on(check_comparison(judge, request, &fixture)).expect("conforms");
}

mod tests {
    use std::collections::BTreeMap;

    use albedo_core::conformance::check_judge;
    use albedo_core::{ErrorKind, Registry, TokenScores};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn judges_are_built_by_name_with_strict_settings() {
        let registry = Registry::linked().expect("no two of a name");
        let cx = CallContext::new();
        for (name, metrics) in [
            ("protocol", vec![Metric::Protocol]),
            (
                "reference-action",
                vec![Metric::Correctness, Metric::Grounding, Metric::Progress, Metric::Efficiency],
            ),
            ("reference-likelihood", vec![Metric::Correctness]),
        ] {
            let judge = registry.build::<dyn Judge>(name, json!({}), &cx).await.expect("defaults");
            assert_eq!(judge.identity().name, name);
            assert!(judge.profile().metrics.into_iter().eq(metrics));
            assert_eq!(judge.profile().reference_scores, name == "reference-likelihood");
            let error = registry.check::<dyn Judge>(name, &json!({"colour": 1})).expect_err("unknown key");
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.to_string().contains("colour"), "{error}");
        }
    }

    #[tokio::test]
    async fn every_judge_conforms() {
        let registry = Registry::linked().expect("no two of a name");
        let scores = |log_prob| Some(Arc::new(TokenScores { log_probs: vec![log_prob; 12] }));
        let comparisons: Vec<_> = RECORDED
            .iter()
            .flat_map(|reference| RECORDED.iter().map(move |first| comparison(reference, first, TEST)))
            .map(|mut request| {
                request.first.reference_scores = scores(-0.5);
                request.second.reference_scores = scores(-0.75);
                request
            })
            .collect();
        let fixture = JudgeFixture::new(comparisons);
        for name in ["protocol", "reference-action", "reference-likelihood"] {
            let judge =
                registry.build::<dyn Judge>(name, json!({}), &CallContext::new()).await.expect("defaults");
            check_judge(&*judge, &fixture).await.expect(name);
        }
    }

    #[tokio::test]
    async fn settings_are_part_of_the_identity() {
        let registry = Registry::linked().expect("no two of a name");
        let cx = CallContext::new();
        let mut configs = BTreeMap::new();
        for settings in [json!({}), json!({"scale": 0.25}), json!({"scale": 0.5})] {
            let judge =
                registry.build::<dyn Judge>("reference-likelihood", settings, &cx).await.expect("built");
            *configs.entry(judge.identity().config).or_insert(0) += 1;
        }
        let mut counts: Vec<_> = configs.into_values().collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
    }
}
