//! What a command does, as far as its program and options tell.

use super::{Command, KEYWORDS};

/// The kind of work a command does; a script's is the greatest of its commands'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StepKind {
    /// Prints a fixed text: how work is handed in.
    Announce,
    /// A program that nothing is known of.
    Other,
    /// Reads or searches files.
    Look,
    /// Reads the version history or the changes made.
    Review,
    /// Installs or records something.
    SetUp,
    /// Runs code or tests.
    Run,
    /// Changes files.
    Edit,
}

/// One command, understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step<'a> {
    /// The kind of work.
    pub(crate) kind: StepKind,
    /// What is called: the program without its folder and, where an argument
    /// chooses the work, that argument: `git diff`, `python -m unittest`.
    pub(crate) call: String,
    /// What it is about: what is printed; other arguments that are neither
    /// options nor part of the call nor inline code; the values of
    /// `--option=value`; files that redirections write; and a program that
    /// nothing is known of.
    pub(crate) operands: Vec<&'a str>,
    /// Program text: here-documents and the argument of `-c` or `-e`.
    pub(crate) code: Vec<&'a str>,
}

/// Programs that only start another one.
const WRAPPERS: [&str; 9] = ["sudo", "env", "time", "timeout", "nohup", "nice", "exec", "command", "xargs"];

/// Programs whose first operand chooses the work.
const DISPATCHERS: [&str; 18] = [
    "apt", "apt-get", "cargo", "conda", "docker", "echo", "git", "go", "hg", "make", "npm", "npx", "pip",
    "poetry", "printf", "svn", "uv", "yarn",
];

/// Interpreters and the option that takes a program's text.
const INTERPRETERS: [(&str, &str); 8] = [
    ("python", "-c"),
    ("bash", "-c"),
    ("sh", "-c"),
    ("zsh", "-c"),
    ("node", "-e"),
    ("perl", "-e"),
    ("ruby", "-e"),
    ("php", "-r"),
];

impl<'a> Step<'a> {
    /// What `command` does; `None` if it does nothing but prepare the shell.
    pub(super) fn of(command: &'a Command) -> Option<Self> {
        let words = unwrap(&command.words);
        let (word, arguments) = match words.split_first() {
            Some((word, arguments)) => (word.as_str(), arguments),
            None => ("", [].as_slice()),
        };
        let program = program(word);
        if matches!(program, "cd" | "export" | "set" | "source" | "." | "true" | ":" | "sleep")
            || KEYWORDS.contains(&program)
            || (program.is_empty() && command.redirections.is_empty())
        {
            return None;
        }
        let mut step = Self {
            kind: StepKind::Other,
            call: program.to_owned(),
            operands: Vec::new(),
            code: command.redirections.iter().map(|redirection| redirection.body.as_str()).collect(),
        };
        step.code.retain(|body| !body.is_empty());
        step.read_arguments(program, arguments);
        step.operands.extend(files(command));
        step.kind = if files(command).next().is_some() { StepKind::Edit } else { step.kind_of(program) };
        if step.kind == StepKind::Other {
            step.operands.push(word);
        }
        Some(step)
    }

    fn read_arguments(&mut self, program: &str, arguments: &'a [String]) {
        let inline = INTERPRETERS.into_iter().find(|&(name, _)| name == program).map(|(_, option)| option);
        let mut dispatches = DISPATCHERS.contains(&program);
        let mut arguments = arguments.iter().map(String::as_str);
        while let Some(argument) = arguments.next() {
            if Some(argument) == inline {
                self.code.extend(arguments.next());
            } else if program == "python" && argument == "-m" {
                match arguments.next() {
                    Some("pytest") => "pytest".clone_into(&mut self.call),
                    Some("pip") => {
                        "pip".clone_into(&mut self.call);
                        dispatches = true;
                    }
                    Some(module) => self.call = format!("python -m {module}"),
                    None => {}
                }
            } else if program == "sed" && is_in_place(argument) {
                "sed -i".clone_into(&mut self.call);
            } else if argument.len() > 1 && argument.starts_with('-') {
                self.operands.extend(argument.split_once('=').map(|(_, value)| value));
            } else if dispatches {
                self.call = format!("{} {argument}", self.call);
                dispatches = false;
                if matches!(program, "echo" | "printf") {
                    self.operands.push(argument);
                }
            } else {
                self.operands.push(argument);
            }
        }
    }

    fn kind_of(&self, program: &str) -> StepKind {
        let operand = self.call.split_once(' ').map_or("", |(_, operand)| operand);
        match program {
            "echo" | "printf" => StepKind::Announce,
            "sed" if self.call == "sed -i" => StepKind::Edit,
            "ls" | "cat" | "head" | "tail" | "nl" | "less" | "more" | "wc" | "sed" | "awk" | "grep"
            | "egrep" | "fgrep" | "rg" | "ag" | "find" | "fd" | "tree" | "file" | "stat" | "du" | "pwd"
            | "sort" | "uniq" | "cut" | "tr" | "column" | "diff" | "cmp" | "strings" | "xxd" | "od"
            | "which" | "jq" | "test" | "[" | "[[" => StepKind::Look,
            "tee" | "patch" | "mv" | "rm" | "cp" | "mkdir" | "rmdir" | "touch" | "chmod" | "ln"
            | "truncate" | "ed" => StepKind::Edit,
            "git" | "hg" | "svn" => match operand {
                "apply" | "am" | "checkout" | "restore" | "reset" | "revert" | "stash" | "mv" | "rm"
                | "clean" => StepKind::Edit,
                "add" | "commit" | "push" | "pull" | "fetch" | "clone" | "config" | "tag" => StepKind::SetUp,
                "grep" | "ls-files" => StepKind::Look,
                _ => StepKind::Review,
            },
            "pip" | "apt" | "apt-get" | "conda" | "poetry" | "docker" => StepKind::SetUp,
            "python" if self.call.starts_with("pip") => StepKind::SetUp,
            _ if INTERPRETERS.iter().any(|&(name, _)| name == program) => {
                let writes = self.code.iter().any(|code| code.contains(".write"));
                if writes { StepKind::Edit } else { StepKind::Run }
            }
            "pytest" | "tox" | "nox" | "make" | "cargo" | "go" | "npm" | "npx" | "yarn" | "uv" | "rustc"
            | "gcc" | "mypy" | "ruff" | "flake8" => StepKind::Run,
            _ => StepKind::Other,
        }
    }
}

/// The words after leading programs that only start another one, with their
/// options, assignments and (for `timeout`) duration.
fn unwrap(words: &[String]) -> &[String] {
    let mut rest = words;
    while let [wrapper, inner @ ..] = rest
        && WRAPPERS.contains(&wrapper.as_str())
    {
        let skipped = inner.iter().take_while(|word| {
            word.starts_with('-')
                || super::is_assignment(word)
                || word.starts_with(|c: char| c.is_ascii_digit())
        });
        let inner = &inner[skipped.count()..];
        if inner.is_empty() {
            break;
        }
        rest = inner;
    }
    rest
}

/// The program that `word` names: without folder, and `python3.12` is `python`.
fn program(word: &str) -> &str {
    let name = word.rsplit('/').next().unwrap_or(word);
    let versionless = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if matches!(versionless, "python" | "pip") { versionless } else { name }
}

fn is_in_place(option: &str) -> bool {
    option.starts_with("--in-place")
        || option.strip_prefix('-').is_some_and(|letters| {
            let flags = letters.trim_start_matches(|c: char| "Enrsuz".contains(c));
            flags.starts_with('i')
        })
}

/// The files that `command` writes through redirections.
fn files(command: &Command) -> impl Iterator<Item = &str> {
    command.redirections.iter().filter_map(|redirection| {
        let writes = redirection.operator.contains('>') && !redirection.operator.contains(">&");
        (writes && !redirection.target.starts_with("/dev/")).then_some(redirection.target.as_str())
    })
}
