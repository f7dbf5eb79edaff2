//! `albedo new`: writes a crate with a plugin of its own.

use std::fs;
use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::output::print;
use super::source::absolute;
use crate::{Error, ErrorKind, Fault, Registry, Result};

/// The longest name of a crate and its plugin, in characters.
const LONGEST_NAME: usize = 64;

/// Crates that a new one depends on, and names that Cargo or Rust keep for
/// themselves.
const TAKEN: [&str; 15] = [
    "albedo",
    "async-trait",
    "schemars",
    "serde",
    "serde-json",
    "futures",
    "tokio",
    "alloc",
    "core",
    "std",
    "test",
    "proc-macro",
    "build",
    "deps",
    "examples",
];

/// Rust's keywords, of all editions: a crate's name is an identifier.
/// Source: The Rust Reference, *Keywords*.
const KEYWORDS: &str = "abstract as async await become box break const continue crate do dyn else enum extern \
                        false final fn for gen if impl in let loop macro match mod move mut override priv pub ref \
                        return self static struct super trait true try type typeof unsafe unsized use virtual \
                        where while yield";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What the plugin is.
    kind: Kind,
    /// Name of the crate and of its plugin: lower-case letters and digits, words
    /// joined by hyphens. The crate is written into a new folder of this name.
    name: String,
    /// The albedo that the crate depends on: a version, or the folder of its
    /// repository [default: the version of this program].
    #[arg(long, value_name = "VERSION|DIR")]
    albedo: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// Compares two replies.
    Judge,
    /// Looks at a submission before it may duel.
    Screen,
    /// Runs models.
    Backend,
}

impl Kind {
    /// The role's name in `albedo plugins`, and the template's file name.
    fn as_str(self) -> &'static str {
        match self {
            Self::Judge => "judge",
            Self::Screen => "screen",
            Self::Backend => "backend",
        }
    }

    /// The crate's files beside those that every kind has: path and text.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Judge => {
                &[("src/lib.rs", include_str!("new/judge.rs")), ("duel.toml", include_str!("new/judge.toml"))]
            }
            Self::Screen => &[
                ("src/lib.rs", include_str!("new/screen.rs")),
                ("duel.toml", include_str!("new/screen.toml")),
            ],
            Self::Backend => &[
                ("src/lib.rs", include_str!("new/backend.rs")),
                ("duel.toml", include_str!("new/backend.toml")),
                ("models/king/reply.txt", "Look first.\n\n```bash\nls\n```\n"),
                ("models/challenger/reply.txt", "THOUGHT: I look first.\n\n```bash\nls\n```\n"),
            ],
        }
    }
}

/// Files that every crate has. In all templates, the names of the plugin and its
/// type stand as `my-plugin`, `my_plugin` and `MyPlugin`.
const COMMON: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("new/Cargo.toml.in")),
    ("README.md", include_str!("new/README.md.in")),
    (".gitignore", "/target\n/duels\n"),
    ("src/main.rs", include_str!("new/main.rs")),
    ("tests/program.rs", include_str!("new/program.rs")),
];

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let Arguments { kind, name, albedo } = arguments;
    check_name(name)?;
    let taken = |plugin: &crate::PluginInfo| plugin.role == kind.as_str() && plugin.name == name;
    if Registry::linked()?.list().iter().any(taken) {
        return Err(invalid(format!("`{name}` is a {} of this program", kind.as_str()))
            .with_hint("choose another name"));
    }
    let albedo = dependency(albedo.as_deref())?;
    let folder = PathBuf::from(name);
    // Fails if there is one: nothing that exists is written to.
    fs::create_dir(&folder).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::Conflict, "write a new crate", "the folder exists")
                .with_fault(Fault::Operator)
                .with("path", folder.display())
                .with_hint("choose another name, or remove it")
        }
        _ => Error::io("write a new crate", &folder, error),
    })?;
    for (path, template) in COMMON.iter().chain(kind.files()) {
        let text = fill(template, *kind, name, &albedo);
        write(&folder.join(path), &text)?;
    }
    print(&format!(
        "{name}/ has the {} `{name}`: cd {name}, cargo test --release, cargo run --release -- plugins\n",
        kind.as_str()
    ))?;
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let io = |error| Error::io("write a new crate", path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io)?;
    }
    fs::write(path, text).map_err(io)
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::ConfigInvalid, "name a new crate", message)
}

fn check_name(name: &str) -> Result<()> {
    let word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.split('-').all(word) {
        return Err(invalid(format!("{name:?} is not a name"))
            .with_hint("use lower-case letters and digits, words joined by hyphens, a letter first"));
    }
    if name.len() > LONGEST_NAME {
        return Err(invalid(format!("the name has more than {LONGEST_NAME} characters")));
    }
    if TAKEN.contains(&name) || KEYWORDS.split_whitespace().any(|keyword| keyword == name) {
        return Err(invalid(format!("`{name}` means something else to Rust or to the new crate"))
            .with_hint("choose another name"));
    }
    Ok(())
}

/// The value of `albedo` in the new crate's dependencies, without its features.
fn dependency(albedo: Option<&str>) -> Result<String> {
    let Some(albedo) = albedo else {
        return Ok(format!("version = {:?}", env!("CARGO_PKG_VERSION")));
    };
    if albedo.starts_with(|c: char| c.is_ascii_digit())
        && albedo.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'))
        && !Path::new(albedo).exists()
    {
        return Ok(format!("version = {albedo:?}"));
    }
    let folder = absolute(Path::new(albedo))?;
    let manifest = folder.join("Cargo.toml");
    fs::metadata(&manifest).map_err(|error| {
        Error::io("find albedo", &manifest, error)
            .with_hint("give a version, or the folder of its repository")
    })?;
    match folder.to_str() {
        // A JSON text without control characters is a TOML text.
        Some(path) if !path.contains(char::is_control) => Ok(format!("path = {}", serde_json::json!(path))),
        _ => Err(Error::new(ErrorKind::ConfigInvalid, "find albedo", "Cargo.toml cannot hold this path")
            .with("path", folder.display())),
    }
}

/// `template` with the crate's own names.
fn fill(template: &str, kind: Kind, name: &str, albedo: &str) -> String {
    template
        .replace("my-plugin", name)
        .replace("my_plugin", &name.replace('-', "_"))
        .replace("MyPlugin", &type_name(name))
        .replace("the-kind", kind.as_str())
        .replace("version = \"the-albedo\"", albedo)
}

/// `name` as the name of a type: `step-by-step` is `StepByStep`.
fn type_name(name: &str) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    name.split('-').map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_strict() {
        for name in ["a", "step-by-step", "judge2", &"x".repeat(64)] {
            check_name(name).expect(name);
        }
        for name in [
            "",
            "-a",
            "a-",
            "a--b",
            "2nd",
            "A",
            "a_b",
            "a b",
            "a/b",
            "..",
            "é",
            "a\n",
            "match",
            "serde",
            "albedo",
            &"x".repeat(65),
        ] {
            assert_eq!(check_name(name).expect_err(name).kind(), ErrorKind::ConfigInvalid);
        }
    }

    #[test]
    fn types_are_named_after_the_plugin() {
        assert_eq!(type_name("step-by-step"), "StepByStep");
        assert_eq!(type_name("judge2"), "Judge2");
    }

    #[test]
    fn albedo_is_a_version_or_a_folder() {
        let version = |albedo| dependency(albedo).expect("a version");
        assert_eq!(version(None), format!("version = {:?}", env!("CARGO_PKG_VERSION")));
        assert_eq!(version(Some("0.2.0-rc.1")), "version = \"0.2.0-rc.1\"");
        assert!(version(Some(env!("CARGO_MANIFEST_DIR"))).starts_with("path = \"/"));
        let error = dependency(Some("nowhere")).expect_err("no folder");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }

    #[test]
    fn every_name_in_the_templates_is_filled_in() {
        for kind in [Kind::Judge, Kind::Screen, Kind::Backend] {
            for (path, template) in COMMON.iter().chain(kind.files()) {
                let text = fill(template, kind, "step-by-step", "version = \"1.2.3\"");
                for left in ["my-plugin", "my_plugin", "MyPlugin", "the-kind", "the-albedo"] {
                    assert!(!text.contains(left), "{path}: {left}");
                }
            }
        }
    }
}
