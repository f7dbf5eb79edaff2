//! Prints the public API in a file of rustdoc's JSON: one item per line, sorted.
//!
//! Traits that a type implements by derive are one line each; what every type
//! has (blanket and automatic implementations) is left out.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: public-api-list FILE.json");
        return ExitCode::from(2);
    };
    match list(Path::new(&file)) {
        Ok(lines) => {
            for line in lines {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: read {file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list(file: &Path) -> Result<BTreeSet<String>, public_api::Error> {
    let read = |derived: bool| {
        public_api::Builder::from_rustdoc_json(file)
            .omit_blanket_impls(true)
            .omit_auto_trait_impls(true)
            .omit_auto_derived_impls(!derived)
            .build()
    };
    let written = read(false)?;
    let derived = read(true)?;
    let derived = derived.items().map(ToString::to_string).filter(|line| is_derive(line));
    Ok(written.items().map(ToString::to_string).chain(derived).collect())
}

fn is_derive(line: &str) -> bool {
    line.starts_with("impl") && !line.contains("StructuralPartialEq")
}
