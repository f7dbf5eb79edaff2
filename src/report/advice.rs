//! What a submitter can change about what the screens found.

use serde_json::Value;

use super::Look;
use crate::{Admission, Finding, PluginConfig, Screen};

/// What each finding rests on and what to change, one entry per rule that was broken, and
/// the thresholds of `screens`, as far as they are set.
pub fn advice(admission: &Admission, screens: &[PluginConfig<dyn Screen>], look: Look) -> String {
    let mut text = String::from("\n") + &look.paragraph(&look.strong("What to change"));
    let mut any = false;
    for screened in &admission.findings {
        for rule in rules(&screened.finding) {
            any = true;
            let name = format!("{}, {rule}", screened.screen.name);
            text += &look.hanging(&name, 28, remedy(&screened.screen.name, &rule));
        }
    }
    if !any {
        text += &look.paragraph("Nothing: no screen that ran found anything.");
    }
    if let Some(profile) = &admission.profile {
        let of =
            format!("\nThresholds of the screen profile {} ({}):", profile.name, profile.screens.short());
        text += &look.paragraph(&of);
    } else {
        text += &look.paragraph("\nThresholds that are set:");
    }
    for screen in screens {
        let numbers = screen.settings().iter().filter(|(_, value)| value.is_number());
        let numbers: Vec<_> = numbers.map(|(key, value)| format!("{key} {value}")).collect();
        if !numbers.is_empty() {
            text += &look.hanging(&format!("  {}", screen.name()), 28, &numbers.join(", "));
        }
    }
    text + &look.paragraph("More: docs/screens.md; `albedo plugins` explains each setting.")
}

/// The rules that a finding rests on, each once.
fn rules(finding: &Finding) -> Vec<String> {
    if let Finding::Clear(_) = finding {
        return Vec::new();
    }
    let evidence = finding.evidence();
    let words = |key: &str, word: &dyn Fn(&Value) -> Option<String>| -> Vec<String> {
        evidence[key].as_array().into_iter().flatten().filter_map(word).collect()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut rules = words("rules", &text);
    rules.extend(words("problems", &|problem| text(&problem["check"])));
    if rules.is_empty() {
        rules.push(finding.word().to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    rules
}

/// What to do about `rule` of `screen`.
fn remedy(screen: &str, rule: &str) -> &'static str {
    let known = REMEDIES.iter().find(|(name, known, _)| *name == screen && *known == rule);
    match (known, rule) {
        (Some((_, _, remedy)), _) => remedy,
        (None, "unverified") => {
            "Nothing of yours: it could not be found out, and is tried again. The finding names the cause."
        }
        (None, _) => "The finding above says what was found; docs/screens.md says what the screen compares.",
    }
}

const REMEDIES: [(&str, &str, &str); 46] = [
    (
        "files",
        "allowlist",
        "Remove the file: a model is config.json, tokenizer files and safetensors, no code.",
    ),
    (
        "files",
        "special",
        "Hand in regular files alone: no pipes, no links out of the folder, names in UTF-8.",
    ),
    ("files", "name", "Use plain relative names, each once."),
    ("files", "required", "Add the file. Was the upload complete?"),
    ("files", "complete", "Finish the download or upload, and remove what the tool left."),
    ("files", "size", "Remove what the king does not have: optimiser states, a second copy, padding."),
    ("files", "header", "Save the model again with save_pretrained, in safetensors."),
    ("files", "index", "Save the model again: index and shards have to name the same tensors."),
    ("files", "tensors", "Give every tensor the king's name and shape. Merge adapters."),
    ("files", "dtype", "Save the weights as bf16 or f16: no f32, no quantised types."),
    ("files", "pinned", "Take this file from the king unchanged."),
    ("files", "as-king", "Take tokenizer, template and generation settings from the king unchanged."),
    ("files", "json", "Repair the JSON."),
    ("architecture", "locked", "Take config.json from the king; a fine-tune changes none of these keys."),
    ("architecture", "forbidden", "Remove the key. Hand in weights in bf16 without code or quantisation."),
    ("architecture", "required", "Add config.json."),
    ("architecture", "json", "Repair config.json."),
    (
        "digest",
        "copy",
        "These weights were handed in before, by you or somebody else. Train the king further.",
    ),
    (
        "digest",
        "head",
        "The embedding is tied, and lm_head.weight is another matrix. Leave it out of the files.",
    ),
    ("digest", "equal", "Nearly all tensors are somebody's bytes. Train more of the network, from the king."),
    (
        "fingerprint-v2",
        "flagged",
        "Train for longer or at a higher rate; this one compares only a few numbers of each tensor.",
    ),
    (
        "lineage",
        "numbers",
        "A weight is infinite, no number or absurdly large: training diverged, or the export is broken.",
    ),
    (
        "lineage",
        "nothing-differs",
        "With what leaves the function unchanged undone, it is the same model. Train the king further.",
    ),
    (
        "lineage",
        "shared",
        "Matrices of this model are another submission's. Start from the king, not from it.",
    ),
    (
        "lineage",
        "copied",
        "The weights moved as another submission's did. Start from the king; use your own data and seed.",
    ),
    (
        "lineage",
        "alike",
        "The weights moved much as another submission's did. Nothing forfeits; own data and another seed move them otherwise.",
    ),
    (
        "lineage",
        "moved",
        "The weights moved from their king as an earlier submission's did from another king. Nothing forfeits; own data and another seed move them otherwise.",
    ),
    ("lineage", "far", "The weights are no fine-tune of the king's. Start from the king; lower the rate."),
    (
        "lineage",
        "few-differ",
        "Hardly any matrix differs from the king's. Nothing forfeits; train more of the network.",
    ),
    (
        "lineage",
        "hardly-differs",
        "The weights moved less than rounding does. Train for longer or at a higher rate.",
    ),
    (
        "lineage",
        "noise",
        "The change looks like noise. Nothing forfeits: whether the model answers like the king is `functional`'s to say.",
    ),
    (
        "lineage",
        "rotated",
        "The residual stream was turned, which training never does. Hand in the weights as they were trained.",
    ),
    (
        "lineage",
        "rearranged",
        "Rows lie elsewhere than the king's, which training never does. Hand in the weights as they were trained.",
    ),
    ("lineage", "rows", "Rows of the embedding were scaled. Hand in the weights as they were trained."),
    (
        "functional",
        "same",
        "It answers like the king, whatever the weights look like. Train further: it has to answer otherwise, and better.",
    ),
    (
        "functional",
        "near",
        "It answers nearly like the king, and can hardly beat him. Train for longer or at a higher rate.",
    ),
    (
        "functional",
        "copied",
        "Its answers differ from the king's as an earlier submission's do. Start from the king; use your own data and seed.",
    ),
    (
        "functional",
        "alike",
        "Its answers resemble an earlier submission's. Nothing forfeits; a merge with somebody else's work looks so.",
    ),
    (
        "functional",
        "not-compared",
        "Nothing of yours: the backend has no log-probabilities of given replies, or the king was not run.",
    ),
    (
        "sanity",
        "rejected",
        "No reply is usable: check template, precision and the export by `albedo generate`.",
    ),
    (
        "sanity",
        "flagged",
        "Many replies are empty, endless or broken: try `albedo generate` on a few prompts.",
    ),
    (
        "loops",
        "stuck",
        "Conversations go round in circles. Nothing forfeits; train on whole trajectories, and try long ones.",
    ),
    (
        "loops",
        "not-compared",
        "Nothing of yours: too few conversations of the task set have room or turns enough to be judged.",
    ),
    (
        "tail",
        "declines",
        "Late turns fall apart. Nothing forfeits; train on whole trajectories, to the end of the context.",
    ),
    (
        "tail",
        "not-compared",
        "Nothing of yours: too few conversations of the task set have turns enough to be judged.",
    ),
    ("injection", "rejected", "The replies speak to the judge. Remove such words from your training data."),
];

#[cfg(feature = "config")]
#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::ScreenedModel;
    use crate::{AdmissionOutcome, Digest, Identity, ScreenStage, Screened};

    fn admission(screen: &str, finding: Finding) -> Admission {
        let model = || ScreenedModel {
            reference: None,
            files: 1,
            bytes: 1,
            listing: Digest::of("listing"),
            parameters: None,
        };
        let screen = Identity::new(screen, "1", &json!({})).expect("an identity");
        let findings = vec![Screened { screen, stage: ScreenStage::Parameters, finding }];
        Admission {
            king: model(),
            submission: model(),
            anchor: None,
            profile: None,
            seed: None,
            outcome: AdmissionOutcome::of(&findings),
            findings,
        }
    }

    #[test]
    fn every_rule_has_a_remedy_and_every_threshold_a_number() {
        let screens = crate::config::default_screens();
        let look = Look::plain();
        for (screen, rule, remedy) in REMEDIES {
            let finding = Finding::Flagged(json!({ "rules": [rule], "reasons": ["why"] }));
            let text = advice(&admission(screen, finding), &screens, look);
            let first = remedy.split(' ').next().expect("a word");
            assert!(text.contains(&format!("{screen}, {rule}")) && text.contains(first), "{text}");
            assert!(text.contains("noise 1.05"), "{text}");
        }
        let clear = advice(&admission("files", Finding::Clear(json!({}))), &screens, look);
        assert!(clear.contains("Nothing: no screen"), "{clear}");
        let open = advice(&admission("files", Finding::Unverified(json!({ "error": "x" }))), &screens, look);
        assert!(open.contains("Nothing of yours"), "{open}");
    }
}
