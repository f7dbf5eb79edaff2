//! The program has the plugin by name, by configuration alone.

use std::process::Command;

fn run(arguments: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_my-plugin");
    let output = Command::new(program).args(arguments).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

#[test]
fn the_plugin_is_listed() {
    assert!(run(&["plugins"]).contains("the-kind my-plugin\n"));
}

#[test]
fn the_configuration_is_well_formed() {
    assert!(run(&["config", "check", "duel.toml"]).contains("well-formed"));
}
