//! What a session needs of a GPU's memory, reckoned before anything is loaded.

use albedo_core::{DeviceMemory, Error, ErrorKind, Result};

use super::kernels::attention::PAGE;
use super::kernels::attention::decode::SPLIT;
use super::launch::Stored;
use super::products::ProductSize;
use super::settings::few_rows;
use crate::burn::KvDtype;
use crate::burn::config::Qwen3Config;

/// Left to the driver, kernels, graphs and the allocator's rounding, bytes:
/// ours, measured on an H100 with a 4B model.
const RESERVE: u64 = 2_500_000_000;

/// How a session's memory is divided, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::burn) struct MemoryPlan {
    /// What the session may take.
    pub(super) budget: u64,
    /// Weights, as bf16.
    pub(super) weights: u64,
    /// Activations, logits and sums.
    pub(super) workspace: u64,
    /// Keys and values of one page in all layers.
    pub(super) page: u64,
    /// Pages of keys and values.
    pub(super) pages: usize,
    /// Left to the weights of others, with which the session takes turns.
    pub(super) others: u64,
    /// Whether its own weights stay when another has its turn.
    pub(in crate::burn) stays: bool,
}

/// What decides how much memory a step takes, and how much its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepSizes {
    /// Most rows of a chunk of prompts.
    pub(super) rows: usize,
    /// Most sequences that are decoded together.
    pub(super) batch: usize,
    /// What keys and values are stored as.
    pub(super) kv_dtype: KvDtype,
}

impl StepSizes {
    /// Bytes of a page of the keys or values of one head.
    fn page(self, dim: usize) -> usize {
        match self.kv_dtype {
            KvDtype::Bf16 => 2 * <half::bf16 as Stored>::page(dim),
            KvDtype::Int8 => 4 * <u32 as Stored>::page(dim),
        }
    }

    /// Pages of int8 that one chunk of prompts can have as bf16: those of the longest
    /// sequence, and of as many rows as a chunk has.
    pub(super) fn wide_pages(self, config: &Qwen3Config) -> usize {
        match self.kv_dtype {
            KvDtype::Bf16 => 0,
            KvDtype::Int8 => config.max_position_embeddings.div_ceil(PAGE) + 1 + self.rows.div_ceil(PAGE),
        }
    }
}

impl MemoryPlan {
    /// Divides `share` of a GPU with `total` bytes. `others` are the weights of
    /// the sessions with which this one takes turns, if it does.
    ///
    /// Of two that take turns the weights of both stay, if that leaves at least
    /// half of the room for keys and values: a turn then begins at once. If it
    /// leaves less, larger batches gain more than loading again costs.
    ///
    /// # Errors
    /// [`ErrorKind::ResourceExhausted`] with the numbers if a page a sequence
    /// does not fit.
    pub(super) fn new(
        config: &Qwen3Config,
        sizes: StepSizes,
        total: u64,
        share: f64,
        others: Option<&[u64]>,
    ) -> Result<Self> {
        let budget = (total.saturating_sub(RESERVE) as f64 * share) as u64;
        let weights = 2 * config.parameter_count();
        let workspace = workspace(config, sizes);
        let heads = 2 * config.num_key_value_heads * config.num_hidden_layers;
        let page = (heads * sizes.page(config.head_dim)) as u64;
        // More pages than every sequence's whole context are never used.
        let most = sizes.batch * config.max_position_embeddings.div_ceil(PAGE);
        let beside = |others: u64, stays: bool| {
            let left = budget.saturating_sub(weights + others + workspace);
            let pages = ((left / page) as usize).saturating_sub(1).min(most);
            Self { budget, weights, workspace, page, pages, others, stays }
        };
        let alone = beside(0, others.is_none());
        let plan = match others {
            // The next one is taken to be as large.
            Some([]) => beside(weights, true),
            Some(others) => beside(others.iter().sum(), others.len() == 1 && weights <= others[0]),
            None => alone.clone(),
        };
        let plan = if plan.pages > sizes.batch && 2 * plan.pages >= alone.pages { plan } else { alone };
        if plan.pages > sizes.batch {
            return Ok(plan);
        }
        Err(Error::new(
            ErrorKind::ResourceExhausted,
            "plan the GPU's memory",
            format!("the model does not fit: {}", plan.memory()),
        )
        .with_hint("raise `memory_share`, lower `max_batch`, or use a larger GPU"))
    }

    /// Tokens whose keys and values fit.
    pub(super) fn tokens(&self) -> usize {
        self.pages * PAGE
    }

    /// The plan, as a session tells it.
    pub(in crate::burn) fn memory(&self) -> DeviceMemory {
        DeviceMemory {
            budget: self.budget,
            weights: self.weights,
            workspace: self.workspace,
            kv_cache: self.page * self.pages as u64,
            kv_cache_tokens: self.tokens() as u64,
            others: self.others,
        }
    }
}

/// Splits of the longest row: the context, rounded up to pages, and the token too many.
pub(super) fn most_splits(config: &Qwen3Config) -> usize {
    (config.max_position_embeddings + 2 * PAGE).div_ceil(SPLIT) + 1
}

/// Values for the sums of split-K of the widest product of few rows that has it.
pub(super) fn sums(config: &Qwen3Config, StepSizes { batch, .. }: StepSizes) -> usize {
    let widths = [config.hidden_size, config.query_width() + 2 * config.kv_width()];
    let sums = widths.map(|width| {
        let split_k = few_rows(ProductSize { rows: batch, k: width, width, gated: false }).split_k;
        if split_k > 1 { split_k * width } else { 0 }
    });
    batch * sums[0].max(sums[1])
}

fn workspace(config: &Qwen3Config, sizes: StepSizes) -> u64 {
    let StepSizes { rows, batch, .. } = sizes;
    let (hidden, inter, q) = (config.hidden_size, config.intermediate_size, config.query_width());
    let row = 4 * hidden + 2 * (2 * hidden + 2 * q + config.kv_width() * 2 + q + inter);
    let splits = most_splits(config);
    let decoded = 4 * (q + 2 * config.num_attention_heads) * splits + 4 * config.vocab_size;
    let angles = 4 * config.max_position_embeddings * config.head_dim;
    let wide = 4 * sizes.wide_pages(config) * PAGE * config.kv_width();
    (rows * row + batch * (decoded + row) + 4 * sums(config, sizes) + angles + wide) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen3_4b() -> Qwen3Config {
        Qwen3Config {
            vocab_size: 151_936,
            hidden_size: 2560,
            num_hidden_layers: 36,
            num_attention_heads: 32,
            num_key_value_heads: 8,
            head_dim: 128,
            intermediate_size: 9728,
            max_position_embeddings: 40_960,
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            tie_word_embeddings: true,
        }
    }

    const SIZES: StepSizes = StepSizes { rows: 8192, batch: 128, kv_dtype: KvDtype::Bf16 };

    #[test]
    fn two_models_fit_on_one_card() {
        let plan = MemoryPlan::new(&qwen3_4b(), SIZES, 85_520_809_984, 0.5, None).unwrap();
        assert_eq!(plan.page, 147_456 * 64);
        assert!(plan.tokens() > 190_000, "{plan:?}");
        assert!(plan.weights + plan.workspace + plan.page * (plan.pages as u64 + 1) <= plan.budget);
    }

    #[test]
    fn int8_holds_nearly_twice_as_many_tokens() {
        let plan = |kv_dtype| {
            MemoryPlan::new(&qwen3_4b(), StepSizes { kv_dtype, ..SIZES }, 85_520_809_984, 0.95, None)
        };
        let (half, codes) = (plan(KvDtype::Bf16).unwrap(), plan(KvDtype::Int8).unwrap());
        assert_eq!(codes.page, (36 * 8 * 2 * (64 * 128 + 64 * 4)) as u64);
        // 33 bytes for 64; what prompts are widened to costs a little.
        let gain = codes.tokens() as f64 / half.tokens() as f64;
        assert!((1.9..1.94).contains(&gain), "{gain}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let error = MemoryPlan::new(&qwen3_4b(), SIZES, 12_000_000_000, 1.0, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.message().contains("weights 8.04"), "{error}");
        assert!(MemoryPlan::new(&qwen3_4b(), SIZES, 0, 1.0, None).is_err());
    }

    #[test]
    fn the_weights_of_two_stay_where_there_is_room_for_them() {
        let plan =
            |total, others: Option<&[u64]>| MemoryPlan::new(&qwen3_4b(), SIZES, total, 0.95, others).unwrap();
        let (large, small) = (85_520_809_984, 26_000_000_000);
        let alone = plan(large, None);
        let first = plan(large, Some(&[]));
        assert!(first.stays && first.pages < alone.pages && 2 * first.pages > alone.pages, "{first:?}");
        assert_eq!(first.others, first.weights);
        assert_eq!(plan(large, Some(&[first.weights])), first, "the second is divided alike");
        // A larger one than the first left room for, and a third, are loaded at every turn.
        for others in [&[first.weights - 1][..], &[first.weights, first.weights]] {
            let plan = plan(large, Some(others));
            assert!(!plan.stays && plan.others == others.iter().sum::<u64>(), "{plan:?}");
        }
        let reloaded = plan(small, Some(&[]));
        assert!(!reloaded.stays && reloaded.pages == plan(small, None).pages, "{reloaded:?}");
    }
}
