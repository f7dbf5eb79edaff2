//! `albedo init`: writes a commented configuration, and what it needs beside it.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::output::{next, note, print, print_error, word};
use super::prompt::asked;
use crate::config::DuelConfig;
use crate::demo::Demo;
use crate::{Error, ErrorKind, Fault, Registry, Result};

const WRITE: &str = "write a configuration";

const CONFIG: &str = "duel.toml";
const SCHEMA: &str = "duel.schema.json";

/// What every configuration begins with.
const HEAD: &str = include_str!("init/head.toml");

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder for the files; it is made if there is none.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The demo: two small models and tasks, copied beside the file; judges without a
    /// model. It runs as it is.
    #[arg(long, group = "kind")]
    demo: bool,
    /// Two models behind a server, on the demo's tasks.
    #[arg(long, group = "kind")]
    remote: bool,
    /// The demo's models before a panel of three chat judges.
    #[arg(long, group = "kind")]
    panel: bool,
}

/// What the configuration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Demo,
    Remote,
    Panel,
}

impl Kind {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Demo, "two small models on this machine: runs as it is"),
        (Self::Remote, "two models behind a server"),
        (Self::Panel, "models on this machine before three chat judges"),
    ];

    fn config(self) -> &'static str {
        match self {
            Self::Demo => include_str!("init/demo.toml"),
            Self::Remote => include_str!("init/remote.toml"),
            Self::Panel => include_str!("init/panel.toml"),
        }
    }

    /// Parts of the demo pack that the configuration names.
    fn parts(self) -> &'static [&'static str] {
        match self {
            Self::Demo | Self::Panel => &["models", "tasks"],
            Self::Remote => &["tasks"],
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let Some(kind) = arguments.kind()? else {
        let message = "the kind of configuration is not said";
        print_error(
            &Error::new(ErrorKind::ConfigInvalid, WRITE, message)
                .with_hint("give `--demo`, `--remote` or `--panel`; on a terminal, `init` asks"),
        );
        return Ok(Exit::Usage);
    };
    let folder = &arguments.folder;
    for name in [CONFIG, SCHEMA].iter().chain(kind.parts()) {
        let path = folder.join(name);
        if path.exists() {
            return Err(Error::new(ErrorKind::Conflict, WRITE, format!("there is a `{name}` already"))
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("choose another folder, or move it away"));
        }
    }
    let demo = Demo::locate()?;
    fs::create_dir_all(folder).map_err(|error| Error::io(WRITE, folder, error))?;
    for part in kind.parts() {
        copy(&demo.folder().join(part), &folder.join(part))?;
    }
    let schema = DuelConfig::schema(&Registry::linked()?);
    let schema = serde_json::to_string_pretty(&schema)
        .map_err(|error| Error::bug(WRITE, error.to_string()).with_source(error))?;
    write(&folder.join(SCHEMA), &schema)?;
    // Last: with it the folder is whole.
    let config = folder.join(CONFIG);
    write(&config, &format!("{HEAD}{}", kind.config()))?;
    print(&format!("{}\n", config.display()))?;
    if kind == Kind::Remote {
        note("name your models and their server in it first");
    }
    let config = word(&config);
    next(&[
        (format!("config check {config}"), "checks it and looks at nothing else"),
        (format!("duel --config {config}"), "runs it"),
    ]);
    Ok(Exit::Done)
}

impl Arguments {
    /// What the command line says, or the person at the terminal.
    fn kind(&self) -> Result<Option<Kind>> {
        let given = [(self.demo, Kind::Demo), (self.remote, Kind::Remote), (self.panel, Kind::Panel)];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, kind)) => Ok(Some(kind)),
            None if io::stdin().is_terminal() && io::stderr().is_terminal() => {
                asked(|| ask(&mut io::stdin().lock(), &mut io::stderr()))
            }
            None => Ok(None),
        }
    }
}

/// Asks until a kind is named; none if the input ends.
fn ask(from: &mut dyn BufRead, to: &mut dyn Write) -> Result<Option<Kind>> {
    let unwritable = |error: io::Error| {
        Error::new(ErrorKind::Unavailable, "ask what to write", error.to_string()).with_source(error)
    };
    writeln!(to, "What do you want to compare?").map_err(unwritable)?;
    for (number, (_, what)) in (1..).zip(Kind::ALL) {
        writeln!(to, "  {number}  {what}").map_err(unwritable)?;
    }
    loop {
        write!(to, "A number [1]: ").and_then(|()| to.flush()).map_err(unwritable)?;
        let mut answer = String::new();
        if from.read_line(&mut answer).map_err(unwritable)? == 0 {
            return Ok(None);
        }
        let number = match answer.trim() {
            "" => Ok(1),
            answer => answer.parse::<usize>(),
        };
        if let Some((kind, _)) = number.ok().and_then(|number| Kind::ALL.get(number.checked_sub(1)?).copied())
        {
            return Ok(Some(kind));
        }
        writeln!(to, "1, 2 or 3").map_err(unwritable)?;
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::io(WRITE, path, error))
}

/// Copies a file, or a folder without what is hidden in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let io = |error| Error::io("copy the demo", from, error);
    if !fs::metadata(from).map_err(io)?.is_dir() {
        return fs::copy(from, to).map(drop).map_err(io);
    }
    fs::create_dir_all(to).map_err(io)?;
    for entry in fs::read_dir(from).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if !name.to_string_lossy().starts_with('.') {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_asked_for_until_it_is_named() {
        let asked = |answers: &str| {
            let mut shown = Vec::new();
            let kind = ask(&mut answers.as_bytes(), &mut shown).expect("asks");
            (kind, String::from_utf8(shown).expect("UTF-8"))
        };
        assert_eq!(asked("\n").0, Some(Kind::Demo));
        assert_eq!(asked("2\n").0, Some(Kind::Remote));
        let (kind, shown) = asked("0\n4\nthe panel\n 3 \n");
        assert_eq!((kind, shown.matches("1, 2 or 3\n").count()), (Some(Kind::Panel), 3));
        assert_eq!(asked("").0, None);
    }

    /// The demo's own manifest, so that the pin in the templates is of these tasks.
    #[test]
    #[cfg(all(feature = "cpu", feature = "openai", feature = "judges"))]
    fn every_kind_is_well_formed_and_pins_the_demos_tasks() {
        let registry = Registry::linked().expect("links");
        let demo = DuelConfig::read(Path::new("examples/demo/duel.toml")).expect("the demo's");
        for (kind, _) in Kind::ALL {
            let config = DuelConfig::parse(&format!("{HEAD}{}", kind.config())).expect("reads");
            config.check(&registry).expect("is well-formed");
            assert_eq!(config.tasks, demo.tasks, "{kind:?}");
            assert_eq!(config.doubts(), [""; 0]);
        }
        let config = DuelConfig::parse(Kind::Demo.config()).expect("reads");
        assert_eq!((config.duel, config.judges), (demo.duel, demo.judges), "the verdict is the demo's");
    }
}
