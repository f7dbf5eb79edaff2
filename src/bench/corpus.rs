//! Prompts from a model's own vocabulary.

use std::path::Path;

use albedo_core::rng::{Stream, Use};

use super::{MEASURE, NEVER_WRITTEN, TOKENIZER, read_json};
use crate::{Error, ErrorKind, Result};

/// How a byte-level vocabulary writes a space.
const SPACE: char = 'Ġ';

/// The fewest words that prompts are drawn from. Source: chosen by albedo.
const FEWEST: usize = 64;

/// Short words that most tokenizers have whole. Source: chosen by albedo.
const COMMON: &str = "about above after again air all along also always and animal answer any around ask away back \
                      before begin below between big book both boy build call came car carry change children city \
                      close cold come country course cut day different does door down draw each early earth eat end \
                      every example eye face fact family far farm father feet few field figure find first follow \
                      food form found four friend from full game get girl give good great group grow half hand \
                      hard have head hear help high hold home horse hour house idea important keep kind know land \
                      large last later learn leave left letter life light like line list little live long look made \
                      make many map mark mean men might mile miss money more morning most mother mountain move much \
                      music must name near need never new next night north note nothing number often oil old once \
                      one only open order other our over page paper part people place plan plant play point quick";

/// Words that are one token each where a space is before them.
#[derive(Debug)]
pub(super) struct Corpus(Vec<String>);

impl Corpus {
    /// The lower-case words of the vocabulary of the model in `folder`, in
    /// alphabetical order.
    pub(super) fn of_model(folder: &Path) -> Result<Self> {
        let path = folder.join(TOKENIZER);
        let tokenizer = read_json(&path)?;
        let vocabulary = tokenizer.get("model").and_then(|model| model["vocab"].as_object());
        let word = |token: &String| {
            let word = token.strip_prefix(SPACE)?;
            let plain = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
            plain.then(|| word.to_owned())
        };
        let mut words: Vec<String> = vocabulary.into_iter().flatten().filter_map(|(t, _)| word(t)).collect();
        words.sort_unstable();
        let stops = vocabulary.is_some_and(|vocabulary| vocabulary.contains_key(NEVER_WRITTEN));
        if words.len() >= FEWEST && stops {
            return Ok(Self(words));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            MEASURE,
            format!("its vocabulary is not a byte-level one, or has only {} plain words", words.len()),
        )
        .with("path", path.display()))
    }

    /// Common English words, for a model whose vocabulary only its server knows.
    pub(super) fn common() -> Self {
        Self(COMMON.split_whitespace().map(str::to_owned).collect())
    }

    /// `words` words, one after the other; the longer text begins with the
    /// shorter one.
    pub(super) fn prompt(&self, words: usize, seed: u64) -> String {
        let mut stream = Stream::new(seed, Use::RowDraw);
        let draw = |_| self.0[stream.below(self.0.len() as u64) as usize].as_str();
        (0..words).map(draw).collect::<Vec<_>>().join(" ")
    }
}

/// A number in [0, 1) from `seed`, of another stream than the words.
pub(super) fn unit(seed: u64) -> f64 {
    Stream::new(seed, Use::Bootstrap).unit_at(0)
}
