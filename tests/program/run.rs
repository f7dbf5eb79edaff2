//! Running the program as a user does.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The demo pack.
pub(crate) fn demo() -> PathBuf {
    root().join("examples/demo")
}

/// `albedo` with `arguments`, in the repository's root.
pub(crate) fn command<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_albedo"));
    command.current_dir(root()).env_remove("ALBEDO_DEMO_DIR").args(arguments);
    // The key of the tests' journals is not the user's.
    command.env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state"));
    command
}

/// Runs `albedo` to its end.
pub(crate) fn albedo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Output {
    command(arguments).output().expect("albedo starts")
}

/// Standard output of a run that succeeded.
pub(crate) fn stdout(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {errors}", output.status);
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

/// The last line of standard error.
pub(crate) fn error(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.lines().last().unwrap_or_default().to_owned()
}
