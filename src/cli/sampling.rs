//! How a command has replies written.

use std::marker::PhantomData;

use crate::{Error, ErrorKind, Result, Sampling};

/// How a command's replies are written unless its line says otherwise.
pub(super) trait Defaults {
    const MAX_NEW_TOKENS: &'static str;
    const TEMPERATURE: &'static str;
    const TOP_P: &'static str;
}

/// The options of replies, with the defaults `D`.
#[derive(Debug, clap::Args)]
pub(super) struct SamplingArguments<D: Defaults> {
    /// A reply is cut after this many tokens.
    #[arg(long, value_name = "N", default_value = D::MAX_NEW_TOKENS)]
    pub(super) max_new_tokens: u32,
    /// Sampling temperature; 0 is greedy.
    #[arg(long, value_name = "T", default_value = D::TEMPERATURE, allow_negative_numbers = true)]
    temperature: f64,
    /// Keep the most likely tokens whose probabilities reach this sum; 1 keeps all.
    #[arg(long, value_name = "P", default_value = D::TOP_P, allow_negative_numbers = true)]
    top_p: f64,
    /// Keep this many most likely tokens; 0 keeps all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Seed of the first reply; each later one has the next.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    #[arg(skip)]
    defaults: PhantomData<D>,
}

impl<D: Defaults> SamplingArguments<D> {
    /// How tokens are chosen.
    ///
    /// # Errors
    /// The operator's: a number that is out of its range.
    pub(super) fn sampling(&self) -> Result<Sampling> {
        let sampling = Sampling { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k };
        sampling.check()?;
        if self.max_new_tokens == 0 {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "read the command line",
                "`--max-new-tokens` is 0, it must be at least 1",
            ));
        }
        Ok(sampling)
    }
}
