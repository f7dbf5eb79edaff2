//! The Qwen3 dense decoder, written once for every device.

use std::fmt::Debug;

use albedo_core::Result;

use super::config::Qwen3Config;
use super::ops::Ops;
use super::weights::Weights;

/// A loaded model.
#[derive(Debug)]
pub(super) struct Qwen3<O: Ops> {
    ops: O,
    table: O::Table,
    layers: Vec<Layer<O>>,
    norm: O::Vector,
    /// From hidden to vocabulary; of a tied model, the table.
    head: O::Matrix,
    vocab_size: usize,
}

#[derive(Debug)]
struct Layer<O: Ops> {
    input_norm: O::Vector,
    /// From hidden to q | k | v.
    qkv: O::Matrix,
    /// Of the heads of q and of k.
    head_norms: [O::Vector; 2],
    /// From the heads' results to hidden.
    output: O::Matrix,
    mlp_norm: O::Vector,
    /// From hidden to gate | up.
    gate_up: O::Matrix,
    /// From the activations to hidden.
    down: O::Matrix,
}

impl<O: Ops> Qwen3<O> {
    /// Takes every tensor of `weights`, checks it and puts it on the device of
    /// `ops`.
    ///
    /// # Errors
    /// A tensor that is missing, left over, of another shape or not finite;
    /// whatever `weights` meets, cancellation among it.
    pub(super) fn load(ops: O, config: &Qwen3Config, mut weights: Weights<'_>) -> Result<Self> {
        let (hidden, inter) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.query_width(), config.kv_width());
        const TABLE: &str = "model.embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let vocab = config.vocab_size;

        // Names and shapes first: cheap, and the commonest mistakes.
        let table = weights.take(TABLE, &[vocab, hidden])?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut take = |name: &str, shape: &[usize]| {
                weights.take(&format!("model.layers.{layer}.{name}.weight"), shape)
            };
            layers.push((
                [
                    take("input_layernorm", &[hidden])?,
                    take("self_attn.q_norm", &[config.head_dim])?,
                    take("self_attn.k_norm", &[config.head_dim])?,
                    take("post_attention_layernorm", &[hidden])?,
                ],
                [
                    take("self_attn.q_proj", &[q, hidden])?,
                    take("self_attn.k_proj", &[kv, hidden])?,
                    take("self_attn.v_proj", &[kv, hidden])?,
                ],
                take("self_attn.o_proj", &[hidden, q])?,
                [take("mlp.gate_proj", &[inter, hidden])?, take("mlp.up_proj", &[inter, hidden])?],
                take("mlp.down_proj", &[hidden, inter])?,
            ));
        }
        let norm = weights.take("model.norm.weight", &[hidden])?;
        let head = match config.tie_word_embeddings {
            false => Some(weights.take(HEAD, &[vocab, hidden])?),
            true if weights.contains(HEAD) => Some(weights.take(HEAD, &[vocab, hidden])?),
            true => None,
        };
        let weights = weights.finish()?;

        if let (true, Some(head)) = (config.tie_word_embeddings, &head) {
            weights.require_equal(&table, head)?;
        }
        let layers = layers
            .into_iter()
            .map(|([input_norm, q_norm, k_norm, mlp_norm], qkv, output, gate_up, down)| {
                Ok(Layer {
                    input_norm: ops.vector(&weights, &input_norm)?,
                    qkv: ops.matrix(&weights, &qkv)?,
                    head_norms: ops.head_gains(&weights, [&q_norm, &k_norm])?,
                    output: ops.matrix(&weights, &[output])?,
                    mlp_norm: ops.vector(&weights, &mlp_norm)?,
                    gate_up: ops.matrix(&weights, &gate_up)?,
                    down: ops.matrix(&weights, &[down])?,
                })
            })
            .collect::<Result<_>>()?;
        let own_head = head.as_ref().filter(|_| !config.tie_word_embeddings);
        let (table, head) = ops.table_and_head(&weights, &table, own_head)?;
        Ok(Self { table, layers, norm: ops.vector(&weights, &norm)?, head, vocab_size: vocab, ops })
    }

    /// The device.
    pub(super) fn ops(&self) -> &O {
        &self.ops
    }

    /// The device, for what a session needs beside the weights.
    #[cfg(feature = "cuda")]
    pub(super) fn ops_mut(&mut self) -> &mut O {
        &mut self.ops
    }

    /// Number of logits.
    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Takes a step through the layers, and returns the logits of the rows for
    /// which they are wanted; `None` if there are none.
    ///
    /// # Errors
    /// Memory; a lost device.
    pub(super) fn forward(&self, step: &mut O::Step<'_>) -> Result<Option<O::Logits>> {
        let ops = &self.ops;
        let mut residual = ops.embed(&self.table, step)?;
        let mut normed = ops.rms_norm(&residual, self.gain_before(0), step)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = ops.linear(normed, &layer.qkv, step)?;
            let gains = layer.head_norms.each_ref();
            let mut queries = ops.qk_norm_rope_write_kv(&qkv, gains, index, step)?;
            if index + 1 == self.layers.len() {
                // Of the last layer only keys, values and the wanted rows are needed.
                match ops.wanted(queries, residual, step)? {
                    None => return Ok(None),
                    Some(wanted) => (queries, residual) = wanted,
                }
            }
            let mixed = ops.attend(&queries, index, step)?;
            let mixed = ops.linear(mixed, &layer.output, step)?;
            normed = ops.add_norm(&mut residual, &mixed, &layer.mlp_norm, index, step)?;
            let activated = ops.gated(normed, &layer.gate_up, step)?;
            let output = ops.linear(activated, &layer.down, step)?;
            normed = ops.add_norm(&mut residual, &output, self.gain_before(index + 1), index, step)?;
        }
        ops.lm_head(normed, &self.head, step).map(Some)
    }

    /// The norm before layer `index`; after the last layer, before the head.
    fn gain_before(&self, index: usize) -> &O::Vector {
        self.layers.get(index).map_or(&self.norm, |layer| &layer.input_norm)
    }
}
