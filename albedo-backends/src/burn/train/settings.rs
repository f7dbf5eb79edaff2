//! What a stage of training is asked to do.

use albedo_core::{Error, ErrorKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most steps of a stage. Source: chosen by albedo: the losses of so many steps still fit into the record
/// of a distillation.
pub const MAX_STEPS: u64 = 1_000_000;

/// The largest inner size of adapters. Source: chosen by albedo: adapters in use have some hundreds at
/// most.
pub const MAX_RANK: usize = 1024;

/// How a stage trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What is learnt: `"sft"` (the recorded tokens), `{ distil = … }` (a teacher's
    /// distribution) or `{ dpo = … }` (the better of two replies).
    pub objective: Objective,
    /// `"adamw"` for every parameter, or `"muon"` for the matrices of the layers and AdamW
    /// for embedding, norms and head.
    pub optimizer: Optimizer,
    /// The highest learning rate of AdamW, per step.
    pub rate: f64,
    /// The highest learning rate of Muon, per step.
    pub muon_rate: f64,
    /// The momentum of Muon, 0 to below 1.
    pub momentum: f64,
    /// The decay of AdamW's two running means, each 0 to below 1.
    pub betas: [f64; 2],
    /// What AdamW adds to the root of the second mean, above 0.
    pub epsilon: f64,
    /// The share of a matrix that one step takes away, times the learning rate; 0 or more.
    /// Gains of norms keep theirs.
    pub weight_decay: f64,
    /// The largest Euclidean norm of the whole gradient: a longer one is scaled down to it.
    /// 0 never scales.
    pub clip: f64,
    /// Steps of this stage, 1 to 1,000,000: where the decay ends.
    pub steps: u64,
    /// Steps over which the learning rate rises from 0 to its highest.
    pub warmup: u64,
    /// How the learning rate falls after the warm-up: `"constant"`, `"linear"` or
    /// `"cosine"`.
    pub decay: Decay,
    /// The share of the highest learning rate at the end of the decay, 0 to 1.
    pub final_share: f64,
    /// Trains a product of two thin matrices beside each linear layer instead of all
    /// parameters: `{ rank = 16, alpha = 32 }`.
    pub lora: Option<Lora>,
    /// The seed of the adapters' first values, and of exchanged labels. Nothing else is random.
    pub seed: u64,
    /// Exchanges what is to be learnt among the tokens of a pass, differently in each step: a
    /// control, which can learn how frequent tokens are and nothing of what follows what.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shuffled: bool,
    /// Most tokens that go through the model together; a longer row goes alone. More need
    /// more memory (about 0.1 MB per token for the demo models). The bits depend on it.
    pub pass_tokens: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            objective: Objective::Sft,
            optimizer: Optimizer::Adamw,
            rate: 3e-4,
            muon_rate: 0.01,
            momentum: 0.95,
            betas: [0.9, 0.95],
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            steps: 100,
            warmup: 20,
            decay: Decay::Linear,
            final_share: 0.0,
            lora: None,
            seed: 0,
            shuffled: false,
            pass_tokens: 2048,
        }
    }
}

/// What is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// The tokens themselves: cross-entropy.
    #[default]
    Sft,
    /// The distribution of a teacher at each token.
    Distil(Distil),
    /// Which of two replies is the better one, against a reference.
    Dpo(Dpo),
}

/// Direct preference optimization: the better reply of a pair becomes likelier than the
/// worse one, by more than it is to a reference.
// Source: Rafailov et al., Direct Preference Optimization, 2023.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpo {
    /// How much a nat counts by which the student is apart from the reference, above 0:
    /// less lets it go further.
    pub beta: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1 }
    }
}

/// How the distance from a teacher is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Distil {
    /// `"forward"`, `"reverse"` or `{ jsd = BETA }`.
    pub divergence: Divergence,
    /// Tells apart only the teacher's likeliest tokens, this many, and counts all others
    /// as one; without it, every token.
    pub top: Option<usize>,
    /// What the logits of both models are divided by, above 0.
    pub temperature: f64,
}

impl Default for Distil {
    fn default() -> Self {
        Self { divergence: Divergence::Forward, top: None, temperature: 1.0 }
    }
}

/// A distance between the teacher's distribution P and the student's Q, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Divergence {
    /// KL(P ‖ Q): the student covers what the teacher may say.
    #[default]
    Forward,
    /// KL(Q ‖ P): the student keeps to what the teacher is likely to say.
    Reverse,
    /// The generalised Jensen–Shannon divergence of this weight β, above 0 and below 1:
    /// β KL(P ‖ M) + (1 − β) KL(Q ‖ M), with M = β P + (1 − β) Q.
    // Source: Agarwal et al., On-Policy Distillation of Language Models, 2024.
    Jsd(f64),
}

/// What changes the parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Optimizer {
    /// AdamW for every parameter.
    #[default]
    Adamw,
    /// Muon for the matrices of the layers, AdamW for embedding, norms and head.
    Muon,
}

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// It does not.
    Constant,
    /// In a straight line.
    #[default]
    Linear,
    /// Along half a wave of the cosine.
    Cosine,
}

/// Thin matrices beside the linear layers of all blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// The inner size of the two matrices, 1 to 1,024.
    pub rank: usize,
    /// Their product is scaled by `alpha / rank`.
    pub alpha: f64,
}

/// The data type of exported weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 16 bits, 8 of them of the exponent.
    #[default]
    Bf16,
    /// 32 bits, as the weights are kept in training.
    F32,
}

impl Settings {
    /// Checks every key.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] with the key of a value out of range.
    pub fn check(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        let decays = |value: f64| (0.0..1.0).contains(&value);
        let [first, second] = self.betas;
        need(not_negative(self.rate), "rate", self.rate, "0 or more")?;
        need(not_negative(self.muon_rate), "muon_rate", self.muon_rate, "0 or more")?;
        need(decays(self.momentum), "momentum", self.momentum, "at least 0 and below 1")?;
        need(decays(first), "betas", first, "at least 0 and below 1")?;
        need(decays(second), "betas", second, "at least 0 and below 1")?;
        need(positive(self.epsilon), "epsilon", self.epsilon, "above 0")?;
        need(not_negative(self.weight_decay), "weight_decay", self.weight_decay, "0 or more")?;
        need(not_negative(self.clip), "clip", self.clip, "0 or more")?;
        need((1..=MAX_STEPS).contains(&self.steps), "steps", self.steps, "1 to 1,000,000")?;
        need((0.0..=1.0).contains(&self.final_share), "final_share", self.final_share, "0 to 1")?;
        need(self.pass_tokens >= 1, "pass_tokens", self.pass_tokens, "at least 1")?;
        if let Some(Lora { rank, alpha }) = self.lora {
            need((1..=MAX_RANK).contains(&rank), "lora.rank", rank, "1 to 1,024")?;
            need(positive(alpha), "lora.alpha", alpha, "above 0")?;
            if self.optimizer == Optimizer::Muon {
                return Err(invalid("lora", "adapters are trained with AdamW")
                    .with_hint("set `optimizer = \"adamw\"`, or leave `lora` out"));
            }
        }
        if let Objective::Dpo(Dpo { beta }) = self.objective {
            need(positive(beta), "objective.dpo.beta", beta, "above 0")?;
        }
        if let Objective::Distil(Distil { divergence, top, temperature }) = self.objective {
            need(positive(temperature), "objective.distil.temperature", temperature, "above 0")?;
            if let Some(top) = top {
                need(top >= 1, "objective.distil.top", top, "at least 1")?;
            }
            if let Divergence::Jsd(beta) = divergence {
                let inside = beta > 0.0 && beta < 1.0;
                need(inside, "objective.distil.divergence.jsd", beta, "above 0 and below 1")?;
            }
        }
        Ok(())
    }
}

fn need(met: bool, key: &'static str, value: impl std::fmt::Display, range: &str) -> Result<()> {
    if met {
        return Ok(());
    }
    Err(invalid(key, format!("`{key}` is {value}, it must be {range}")))
}

pub(super) fn invalid(key: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigInvalid, "check the settings of the training", message).with("key", key)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: serde_json::Value) -> Settings {
        serde_json::from_value(value).expect("settings")
    }

    #[test]
    fn keys_are_read_and_unknown_ones_refused() {
        assert_eq!(settings(json!({})), Settings::default());
        let read = settings(json!({
            "objective": {"distil": {"divergence": {"jsd": 0.5}, "top": 64}}, "optimizer": "muon"
        }));
        let distil = Distil { divergence: Divergence::Jsd(0.5), top: Some(64), temperature: 1.0 };
        assert_eq!(read.objective, Objective::Distil(distil));
        assert_eq!(read.optimizer, Optimizer::Muon);
        read.check().expect("in range");
        assert!(serde_json::from_value::<Settings>(json!({"rates": 1})).is_err());
        assert!(serde_json::from_value::<Settings>(json!({"objective": {"distil": {"k": 1}}})).is_err());
    }

    #[test]
    fn values_out_of_range_are_refused_by_key() {
        for (value, key) in [
            (json!({"rate": -1.0}), "rate"),
            (json!({"betas": [0.9, 1.0]}), "betas"),
            (json!({"epsilon": 0.0}), "epsilon"),
            (json!({"steps": 0}), "steps"),
            (json!({"steps": MAX_STEPS + 1}), "steps"),
            (json!({"final_share": 1.5}), "final_share"),
            (json!({"pass_tokens": 0}), "pass_tokens"),
            (json!({"lora": {"rank": 0, "alpha": 1.0}}), "lora.rank"),
            (json!({"lora": {"rank": MAX_RANK + 1, "alpha": 1.0}}), "lora.rank"),
            (json!({"lora": {"rank": 1, "alpha": 1.0}, "optimizer": "muon"}), "lora"),
            (json!({"objective": {"distil": {"temperature": 0.0}}}), "objective.distil.temperature"),
            (json!({"objective": {"distil": {"top": 0}}}), "objective.distil.top"),
            (json!({"objective": {"dpo": {"beta": 0.0}}}), "objective.dpo.beta"),
            (
                json!({"objective": {"distil": {"divergence": {"jsd": 1.0}}}}),
                "objective.distil.divergence.jsd",
            ),
        ] {
            let error = settings(value).check().expect_err(key);
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert_eq!(error.context()[0], ("key", key.to_owned()), "{error}");
        }
        let most = json!({"steps": MAX_STEPS, "lora": {"rank": MAX_RANK, "alpha": 1.0}});
        settings(most).check().expect("in range");
    }
}
