//! Who may depend on whom (ARCHITECTURE.md, invariants 1 and 15).

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--locked"])
        .current_dir(crate::run::root())
        .output()
        .expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The direct dependencies of every member, those for tests left out.
fn members() -> BTreeMap<String, Vec<String>> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    (packages.iter())
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
            let names = dependencies
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]));
            (text(&package["name"]), names.collect())
        })
        .collect()
}

#[test]
fn members_depend_on_core_alone_and_core_on_none() {
    let members = members();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        ["albedo", "albedo-backends", "albedo-chain", "albedo-core", "albedo-judges"]
    );
    for (member, dependencies) in &members {
        let ours: Vec<_> = dependencies.iter().filter(|name| members.contains_key(*name)).collect();
        match member.as_str() {
            "albedo" => {}
            "albedo-core" => assert!(ours.is_empty(), "{ours:?}"),
            _ => assert_eq!(ours, ["albedo-core"], "{member}"),
        }
    }
}

#[test]
fn each_heavy_crate_has_one_home() {
    for (member, dependencies) in members() {
        for name in dependencies {
            let home = match name.as_str() {
                name if name.starts_with("burn") || name.starts_with("cube") => "albedo-backends",
                "tokenizers" | "minijinja" | "parquet" | "reqwest" | "rustls" => "albedo-backends",
                name if name.starts_with("subxt") => "albedo-chain",
                "clap" | "indicatif" | "toml" => "albedo",
                _ => continue,
            };
            assert_eq!(member, home, "{name}");
        }
    }
}

#[test]
fn core_has_no_network_gpu_chain_task_or_command_line_crate() {
    let tree = cargo(&["tree", "--package", "albedo-core", "--edges", "normal", "--prefix", "none"]);
    let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"serde"));
    for name in names {
        for heavy in [
            "burn",
            "cube",
            "subxt",
            "reqwest",
            "hyper",
            "rustls",
            "parquet",
            "arrow",
            "clap",
            "indicatif",
            "tokenizers",
        ] {
            assert!(!name.starts_with(heavy), "{name}");
        }
    }
}
