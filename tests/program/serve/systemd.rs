//! The units of `examples/`, as systemd reads them.

use std::process::Command;

use crate::run::root;

#[test]
fn the_servers_unit_is_well_formed_and_sandboxed() {
    sandboxed("serve/albedo-serve.service", 5.0);
}

/// It needs no device.
#[test]
fn the_validators_unit_is_well_formed_and_sandboxed() {
    sandboxed("validator/albedo-validator.service", 3.0);
}

/// With the guide's configuration nothing is to be added to the unit.
#[test]
fn the_validators_unit_loads_every_secret_that_its_guide_names() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("reads");
    let (guide, unit) = (read("docs/validator.md"), read("examples/validator/albedo-validator.service"));
    let guide = guide.split_once("## From a fresh machine").expect("the section").1;
    let toml = guide.split("```").nth(1).expect("a block");
    let named = toml.split("_env = \"").skip(1).filter_map(|rest| rest.split('"').next());
    // Those of the preset and of the bucket have the names that everybody gives them.
    let named: Vec<_> =
        named.chain(["CHUTES_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]).collect();
    assert_eq!(named.len(), 6, "{named:?}");
    for name in named {
        let line = format!("\nLoadCredential={name}:/etc/albedo/secrets/{name}\n");
        assert!(unit.contains(&line), "{name}");
    }
}

/// Checks the unit, and that `systemd-analyze security` finds less exposure than `most`,
/// of 10.
#[expect(clippy::print_stdout, reason = "says what is skipped, and what was found")]
fn sandboxed(unit: &str, most: f64) {
    let unit = std::fs::read_to_string(root().join("examples").join(unit)).expect("the unit");
    let installed = "/usr/local/bin/albedo";
    assert!(unit.contains(installed) && unit.contains("Type=notify") && unit.contains("WatchdogSec="));
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: systemd-analyze is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("albedo.service");
    std::fs::write(&path, unit.replace(installed, env!("CARGO_BIN_EXE_albedo"))).expect("writes");
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&path).output().expect("it runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        said
    };
    let said = analyze(&["verify", "--man=no"]);
    assert!(said.trim().is_empty(), "{said}");
    let said = analyze(&["security", "--offline=true", "--no-pager"]);
    let found = said.split("Overall exposure level").nth(1).and_then(|rest| rest.split_once(": "));
    let level = found
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|level| level.parse::<f64>().ok());
    let level: f64 = level.expect("a level");
    println!("exposure level {level}");
    assert!(level < most, "{said}");
}
