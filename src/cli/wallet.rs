//! `albedo wallet`.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use crate::chains::wallet::{self, Keypair, Password, Phrase, Wallet};
use crate::{Error, ErrorKind, Result, Scheme};
use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json};
use super::prompt::asked;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a key, and show its phrase once.
    Create(Create),
    /// Make a key again from its phrase.
    Regenerate(Create),
    /// Show the addresses of a wallet; no secret is opened.
    Inspect(Inspect),
}

/// Where a wallet is.
#[derive(Debug, clap::Args)]
pub(crate) struct WalletArguments {
    /// Folder of the wallets.
    #[arg(long, value_name = "FOLDER", env = "BT_WALLET_PATH", default_value = "~/.bittensor/wallets")]
    wallet_path: PathBuf,
    /// Name of the wallet.
    #[arg(long, value_name = "NAME", default_value = "default")]
    wallet: String,
}

/// Where a password comes from; asked for on the terminal otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct PasswordArguments {
    /// File with the key's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Environment variable with the key's password.
    #[arg(long, value_name = "NAME", conflicts_with = "password_file")]
    password_env: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    wallet: WalletArguments,
    #[command(flatten)]
    password: PasswordArguments,
    /// The hotkey's name; the coldkey without it.
    #[arg(long, value_name = "NAME")]
    hotkey: Option<String>,
    /// Keep the key in plain text: usual for hotkeys, dangerous for coldkeys.
    #[arg(long, conflicts_with_all = ["password_file", "password_env"])]
    plain: bool,
    /// Signature scheme.
    #[arg(long, value_name = "SCHEME", default_value = "sr25519", value_parser = ["sr25519", "ed25519"])]
    scheme: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    wallet: WalletArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &Command) -> Result<Exit> {
    match command {
        Command::Create(create) => {
            let pair = Keypair::generate(create.scheme())?;
            create.write(&pair)?;
            if let Some(phrase) = pair.phrase() {
                print(&format!("address  {}\nphrase   {}\n", pair.address(), phrase.reveal()))?;
                note("write the phrase down: whoever has it has the key, and it is not shown again")?;
            }
        }
        Command::Regenerate(create) => {
            let phrase = Phrase::new(secret("phrase of the key: ")?);
            let pair = Keypair::from_phrase(&phrase, create.scheme())?;
            create.write(&pair)?;
            print(&format!("address  {}\n", pair.address()))?;
        }
        Command::Inspect(inspect) => self::inspect(inspect)?,
    }
    Ok(Exit::Done)
}

impl WalletArguments {
    pub(crate) fn open(&self) -> Result<Wallet> {
        let path = match self.wallet_path.strip_prefix("~") {
            Ok(rest) => std::env::home_dir().unwrap_or_default().join(rest),
            Err(_) => self.wallet_path.clone(),
        };
        Wallet::new(&path, &self.wallet)
    }
}

impl PasswordArguments {
    /// The password, if a file or variable gives one.
    fn given(&self) -> Result<Option<Password>> {
        match (&self.password_file, &self.password_env) {
            (Some(path), _) => Password::read(path).map(Some),
            (None, Some(name)) => match std::env::var(name) {
                Ok(text) => Ok(Some(Password::new(text))),
                Err(_) => Err(Error::new(
                    ErrorKind::ConfigInvalid,
                    "read the password",
                    "it is not in the environment",
                )
                .with("variable", name)),
            },
            (None, None) => Ok(None),
        }
    }

    /// Opens a key, asking for its password where it has one.
    pub(crate) fn open(&self, path: &std::path::Path) -> Result<Keypair> {
        let password = match self.given()? {
            None if wallet::is_encrypted(path)? => {
                Some(Password::new(secret(&format!("password of {}: ", path.display()))?))
            }
            given => given,
        };
        wallet::read(path, password.as_ref())
    }
}

impl Create {
    fn scheme(&self) -> Scheme {
        if self.scheme == "ed25519" { Scheme::Ed25519 } else { Scheme::Sr25519 }
    }

    fn write(&self, pair: &Keypair) -> Result<()> {
        let wallet = self.wallet.open()?;
        let password = match self.password.given()? {
            Some(password) => Some(password),
            None if self.plain => None,
            None => {
                let first = secret("password of the new key: ")?;
                if *first != *secret("the same again: ")? {
                    return Err(Error::new(ErrorKind::ConfigInvalid, "make a key", "the passwords differ"));
                }
                Some(Password::new(first))
            }
        };
        match &self.hotkey {
            Some(name) => wallet.create_hotkey(name, pair, password.as_ref()),
            None => wallet.create_coldkey(pair, password.as_ref()),
        }
    }
}

fn inspect(arguments: &Inspect) -> Result<()> {
    let wallet = arguments.wallet.open()?;
    let coldkey = wallet::read_public(&wallet.coldkey_public())?;
    let mut hotkeys = Vec::new();
    for name in wallet.hotkeys()? {
        let public = wallet.read_hotkey_public(&name)?;
        hotkeys.push((name, public));
    }
    if arguments.json {
        let hotkeys: Vec<_> = hotkeys
            .iter()
            .map(|(name, key)| json!({"name": name, "address": key.address(), "scheme": key.scheme}))
            .collect();
        return print_json(&json!({
            "coldkey": {"address": coldkey.address(), "scheme": coldkey.scheme},
            "hotkeys": hotkeys,
        }));
    }
    let lines = hotkeys.iter().map(|(name, key)| format!("hotkey   {}  {name}\n", key.address()));
    let text = format!("coldkey  {}\n{}", coldkey.address(), lines.collect::<Vec<_>>().concat());
    print(&text)
}

/// Asks for a secret: hidden on a terminal, a line of standard input otherwise.
pub(crate) fn secret(prompt: &str) -> Result<String> {
    const OPERATION: &str = "read a secret";
    let failed = |error: io::Error| match error.kind() {
        // The terminal hands the interrupt to who reads from it.
        io::ErrorKind::Interrupted => Error::cancelled(OPERATION),
        _ => Error::new(ErrorKind::Unavailable, OPERATION, error.to_string()).with_source(error),
    };
    if io::stdin().is_terminal() {
        return rpassword::prompt_password(prompt).map_err(failed);
    }
    let mut line = String::new();
    if asked(|| io::stdin().read_line(&mut line)).map_err(failed)? == 0 {
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "standard input has ended")
            .with_hint("give it on standard input, or use a terminal"));
    }
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Shows what would be done and asks; `false` unless the answer is yes.
pub(crate) fn agreed(preview: &str, yes: bool) -> Result<bool> {
    note(preview)?;
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "ask for agreement",
            "there is no terminal to ask on",
        )
        .with_hint("add --yes"));
    }
    let mut line = String::new();
    asked(|| {
        write!(io::stderr(), "go on? [y/N] ")?;
        io::stderr().flush()?;
        io::stdin().read_line(&mut line)
    })
    .map_err(io_failed)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

/// A line for the person, beside what is printed.
pub(crate) fn note(text: &str) -> Result<()> {
    writeln!(io::stderr(), "{text}").map_err(io_failed)
}

fn io_failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "talk to the terminal", error.to_string()).with_source(error)
}
