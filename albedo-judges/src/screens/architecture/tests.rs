use albedo_core::conformance::{PATIENCE, check_files_screen};
use albedo_core::{CallContext, Fault, FilesScreen as _, Side};

use super::*;
use crate::screens::testing::{Copied, Memory};

fn files(config: &str) -> Memory {
    Memory([(CONFIG.to_owned(), config.as_bytes().to_vec())].into())
}

async fn screen(submission: &str, king: &str, config: ArchitectureConfig) -> Result<Finding> {
    let screen = ArchitectureScreen::new(config).expect("a screen");
    screen.inspect(&files(submission), &files(king), &CallContext::new()).await
}

#[tokio::test]
async fn locked_keys_are_the_kings_and_forbidden_ones_nowhere() {
    const KING: &str =
        r#"{"hidden_size": 8, "rope_theta": 1000000.0, "rope_scaling": null, "rms_norm_eps": 1e-6}"#;
    for (submission, rejected) in [
        (KING, false),
        (r#"{"hidden_size": 8, "rope_theta": 1000000, "rms_norm_eps": 0.000001, "use_cache": true}"#, false),
        (r#"{"hidden_size": 9, "rope_theta": 1000000, "rms_norm_eps": 1e-6}"#, true),
        (r#"{"hidden_size": 8, "rope_theta": 10000, "rms_norm_eps": 1e-6}"#, true),
        (r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-5}"#, true),
        (
            r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "rope_scaling": {"factor": 2}}"#,
            true,
        ),
        (r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "auto_map": {}}"#, true),
        (
            r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "x": [{"quantization_config": 1}]}"#,
            true,
        ),
        (
            r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "compression_config": {"bits": 4}}"#,
            true,
        ),
        (r#"{"hidden_size": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "quantization": {"bits": 4}}"#, true),
        ("[]", true),
        ("{", true),
    ] {
        let finding = screen(submission, KING, ArchitectureConfig::default()).await.expect("a finding");
        assert_eq!(matches!(finding, Finding::Rejected(_)), rejected, "{submission}: {finding:?}");
    }
    let deep = format!("{{\"x\": {}", "[".repeat(100_000));
    assert!(matches!(screen(&deep, KING, ArchitectureConfig::default()).await, Ok(Finding::Rejected(_))));
}

/// The demo king's configuration as it is, as transformers 4.57.6 and 5.24.0 save
/// it, and as the one saves what the other saved.
#[tokio::test]
async fn whoever_saved_it_a_network_is_the_same() {
    const SAVED: &str = include_str!("../../../corpus/configs.jsonl");
    let saved: Vec<Value> = SAVED.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(saved.len() >= 5);
    for king in &saved {
        for submission in &saved {
            let (king_text, submission_text) = (king["config"].to_string(), submission["config"].to_string());
            let finding = screen(&submission_text, &king_text, ArchitectureConfig::default()).await;
            assert!(
                matches!(finding, Ok(Finding::Clear(_))),
                "{} beside {}: {finding:?}",
                submission["saved"],
                king["saved"]
            );
            let mut other = submission["config"].clone();
            other["rope_parameters"] = json!({ "rope_theta": 1e6, "type": "yarn", "factor": 4.0 });
            let finding = screen(&other.to_string(), &king_text, ArchitectureConfig::default()).await;
            assert!(matches!(finding, Ok(Finding::Rejected(_))), "{}: {finding:?}", submission["saved"]);
        }
    }
}

#[tokio::test]
async fn a_copy_that_is_cut_short_is_unverified() {
    let screen = ArchitectureScreen::new(ArchitectureConfig::default()).expect("a screen");
    let king = files("{}");
    for (copy, unverified) in
        [(files("{\"a\": "), true), (files(""), true), (Memory::default(), true), (files("[]"), false)]
    {
        let copy = Copied(copy);
        let finding = screen.inspect(&copy, &king, &CallContext::new()).await.expect("a finding");
        assert_eq!(matches!(finding, Finding::Unverified(_)), unverified, "{copy:?}: {finding:?}");
    }
}

#[tokio::test]
async fn a_spec_stands_in_for_the_king() {
    let spec = json!({ "hidden_size": 8 }).as_object().cloned();
    let config = || ArchitectureConfig { spec: spec.clone(), ..ArchitectureConfig::default() };
    assert!(matches!(
        screen(r#"{"hidden_size": 8, "head_dim": 4}"#, "", config()).await,
        Ok(Finding::Clear(_))
    ));
    assert!(matches!(screen("{}", "", config()).await, Ok(Finding::Rejected(_))));
    // Older names lock what they meant.
    let spec = json!({ "rope_scaling": null, "torch_dtype": "bfloat16" }).as_object().cloned();
    let config = || ArchitectureConfig { spec: spec.clone(), ..ArchitectureConfig::default() };
    let by_5 = r#"{"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "dtype": "bfloat16"}"#;
    assert!(matches!(screen(by_5, "", config()).await, Ok(Finding::Clear(_))));
    for other in [&by_5.replace("default", "linear"), &by_5.replace("bfloat16", "float32")] {
        assert!(matches!(screen(other, "", config()).await, Ok(Finding::Rejected(_))), "{other}");
    }
}

#[tokio::test]
async fn a_broken_king_is_an_error_and_the_screen_conforms() {
    let error = screen("{}", "[", ArchitectureConfig::default()).await.expect_err("the king is broken");
    assert_eq!(error.fault(), Fault::Contestant(Side::King));
    let screen = ArchitectureScreen::new(ArchitectureConfig::default()).expect("a screen");
    let (king, other) = (files(r#"{"hidden_size": 8}"#), files("{}"));
    let subjects = [&king, &other].map(|submission| [submission as &dyn ModelFiles, &king]);
    check_files_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
}
