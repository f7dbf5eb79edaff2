//! What the files beside a model's weights mean, whatever version of transformers
//! wrote them.
//!
//! `save_pretrained` of transformers 4 and of 5 write the same model differently:
//! other names, other places, defaults left out or written. Here each file has one
//! normal form. Backends read it, and screens compare it: a fine-tune is not
//! another network because a newer library saved it.
//!
//! Where the two versions understand one spelling differently, transformers 5
//! counts: it names its rules, and writes what 4 reads otherwise.

mod config;
mod generation;
mod tokenizer;

pub use config::normal_config;
pub use generation::{normal_generation, stop_ids};
pub use tokenizer::{
    chat_template, differing_settings, normal_tokenizer, normal_tokenizer_config, token_text,
};
