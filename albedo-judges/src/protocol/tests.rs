use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{EDIT, HAND_IN, RECORDED, SEARCH, check_laws, comparison, score};

fn judge() -> ProtocolJudge {
    ProtocolJudge::new(ProtocolConfig::default()).expect("default settings")
}

fn broken(judge: &ProtocolJudge, text: &str) -> Vec<Check> {
    let request = comparison(EDIT, text, text);
    judge.broken(&request.first, &request).into_iter().collect()
}

#[test]
fn recorded_replies_keep_the_contract() {
    for text in RECORDED {
        assert_eq!(broken(&judge(), text), [], "{text}");
        assert_eq!(broken(&judge(), &format!("<think>\n\n</think>\n\n{text}\n")), [], "{text}");
    }
}

#[test]
fn each_rule_is_checked() {
    use Check::{NoReservedTokens, NotEmpty, NotLooping, NothingAfter, OneAction, RequiredParts};
    let block = "```bash\nls\n```";
    for (text, expected) in [
        (format!("I list the files.\n\n{block}"), vec![RequiredParts]),
        (format!("THOUGHT:\n\n{block}"), vec![RequiredParts]),
        (format!("I have a THOUGHT: list.\n\n{block}"), vec![RequiredParts]),
        (format!("{block}\nTHOUGHT: I list the files."), vec![RequiredParts, NothingAfter]),
        (format!("THOUGHT: x\n\n{block}\n\n{block}"), vec![OneAction]),
        ("THOUGHT: x\n\n```bash\n\n# nothing to do\n```".into(), vec![NotEmpty]),
        ("THOUGHT: x\n\n```bash\nls".into(), vec![OneAction, NotEmpty]),
        ("THOUGHT: x\n\n```python\nprint(1)\n```".into(), vec![OneAction, NotEmpty]),
        (String::new(), vec![RequiredParts, OneAction, NotEmpty]),
        (format!("THOUGHT: {}\n\n{block}", "it fails again, ".repeat(10)), vec![NotLooping]),
        (format!("THOUGHT: x\n\n```bash\n{}\n```", "cat pointer.py\n".repeat(9)), vec![NotLooping]),
        (format!("THOUGHT: x\n\n{block}<|im_start|>"), vec![OneAction, NotEmpty, NoReservedTokens]),
        (format!("THOUGHT: x\n\n{block}\n<|im_end|>"), vec![NoReservedTokens, NothingAfter]),
        (format!("THOUGHT: x\n\n{block}\nI wait for the output."), vec![NothingAfter]),
    ] {
        assert_eq!(broken(&judge(), &text), expected, "{text}");
    }
}

#[test]
fn a_reply_cut_at_the_token_limit_is_truncated() {
    let mut request = comparison(EDIT, SEARCH, SEARCH);
    request.first.finish = FinishReason::Length;
    assert_eq!(judge().broken(&request.first, &request), [Check::NotTruncated].into());
    request.first.finish = FinishReason::Unknown;
    assert_eq!(judge().broken(&request.first, &request), [].into());
}

#[test]
fn only_allowed_programs_may_be_called() {
    let allowed_programs = Some(["grep", "sed", "echo"].map(String::from).into());
    let judge = ProtocolJudge::new(ProtocolConfig { allowed_programs, ..ProtocolConfig::default() })
        .expect("settings");
    assert_eq!(broken(&judge, SEARCH), []);
    for command in ["ls", "/bin/grep x", "echo $(rm x)", "grep x f | xargs rm", "A=1 \\\n  rm x", "$EDITOR x"]
    {
        let text = format!("THOUGHT: x\n\n```bash\n{command}\n```");
        assert_eq!(broken(&judge, &text), [Check::AllowedPrograms], "{command}");
    }
}

#[test]
fn parts_come_in_order() {
    let parts = ["PLAN:", "THOUGHT:"].map(String::from);
    for (text, expected) in [
        ("PLAN: a\nTHOUGHT: b\n", true),
        ("intro\nPLAN: a\n\nTHOUGHT: b", true),
        ("THOUGHT: b\nPLAN: a\n", false),
        ("PLAN:\nTHOUGHT: b\n", false),
        ("PLAN: a THOUGHT: b\n", false),
        ("PLAN: a\n", false),
    ] {
        assert_eq!(has_parts(text, &parts), expected, "{text}");
    }
    assert!(has_parts("", &[]));
}

#[tokio::test]
async fn the_kept_share_is_compared() {
    let judge = judge();
    let chatty = format!("{SEARCH}\nI wait for the output.");
    // 21 points without a list of programs, one of them lost.
    assert_eq!(score(&judge, &comparison(EDIT, SEARCH, HAND_IN), Metric::Protocol).await, 0.5);
    let lead = score(&judge, &comparison(EDIT, SEARCH, &chatty), Metric::Protocol).await - 0.5;
    assert!((lead - 1.0 / 42.0).abs() < 1e-9, "{lead}");
    assert_eq!(score(&judge, &comparison(EDIT, SEARCH, "garbage"), Metric::Protocol).await, 1.0);
}

#[tokio::test]
async fn it_says_what_is_broken() {
    let request = comparison(EDIT, SEARCH, &SEARCH.replace("THOUGHT: ", ""));
    let answer = judge().compare(&request, &CallContext::new()).await.expect("answers");
    let Assessment::Scored { rationale, .. } = answer else { panic!("abstained") };
    assert_eq!(rationale.as_deref(), Some("first keeps the contract; second breaks required-parts"));
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    for (settings, key) in [
        (json!({"languages": []}), "languages"),
        (json!({"languages": ["ba sh"]}), "languages"),
        (json!({"required_parts": [" "]}), "required_parts"),
        (json!({"allowed_programs": []}), "allowed_programs"),
    ] {
        let config = serde_json::from_value(settings).expect("well-formed");
        let error = ProtocolJudge::new(config).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(&format!("key: {key}")), "{error}");
    }
    assert!(serde_json::from_value::<ProtocolConfig>(json!({"language": "bash"})).is_err());
}

proptest! {
    #[test]
    fn any_reply_is_judged(first in any::<String>(), second in "(THOUGHT:|```|bash|\n|ls |x|<\\|a\\|>|<think>|</think>|\\$\\(|'|\"){0,40}") {
        check_laws(&judge(), &comparison(EDIT, &first, &second));
    }
}
