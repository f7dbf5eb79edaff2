//! Who may depend on whom (ARCHITECTURE.md, invariants 1 and 16).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Without the registry if cargo has all that it needs, as where there is no network; a fresh
/// machine has not yet fetched the crates of features that the tests are built without.
fn cargo(arguments: &[&str]) -> String {
    let run = |more: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(arguments).arg("--locked").args(more).current_dir(crate::run::root());
        cargo.output().expect("cargo starts")
    };
    let mut output = run(&["--offline"]);
    if !output.status.success() {
        output = run(&[]);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn packages() -> Vec<Value> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a name").to_owned()
}

/// The direct dependencies of every member, those for tests left out.
fn members() -> BTreeMap<String, Vec<String>> {
    let direct = |package: &Value| {
        let dependencies = package["dependencies"].as_array().expect("dependencies").iter();
        let built = dependencies.filter(|dependency| dependency["kind"] != "dev");
        built.map(|dependency| text(&dependency["name"])).collect()
    };
    packages().iter().map(|package| (text(&package["name"]), direct(package))).collect()
}

/// Every feature of every member, and each member without any.
fn features() -> BTreeSet<(String, String)> {
    let named = |package: &Value| {
        let features = package["features"].as_object().expect("features").keys();
        let named = features.filter(|feature| *feature != "default").cloned();
        let member = text(&package["name"]);
        named.chain([String::new()]).map(move |feature| (member.clone(), feature)).collect::<Vec<_>>()
    };
    packages().iter().flat_map(named).collect()
}

#[test]
fn members_depend_on_core_alone_and_core_on_none() {
    let members = members();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        ["albedo", "albedo-backends", "albedo-chain", "albedo-core", "albedo-demo", "albedo-judges"]
    );
    for (member, dependencies) in &members {
        let ours: Vec<_> = dependencies.iter().filter(|name| members.contains_key(*name)).collect();
        match member.as_str() {
            "albedo" => {}
            "albedo-core" | "albedo-demo" => assert!(ours.is_empty(), "{ours:?}"),
            _ => assert_eq!(ours, ["albedo-core"], "{member}"),
        }
    }
}

#[test]
fn each_heavy_crate_has_its_home() {
    for (member, dependencies) in members() {
        for name in dependencies {
            let homes: &[&str] = match name.as_str() {
                name if name.starts_with("burn") || name.starts_with("cube") => &["albedo-backends"],
                "tokenizers" | "minijinja" | "parquet" => &["albedo-backends"],
                // Clients of models are in the backends; those of servers and
                // storage are the facade's own.
                "reqwest" | "rustls" => &["albedo", "albedo-backends"],
                name if name.starts_with("subxt") => &["albedo-chain"],
                "clap" | "indicatif" | "toml" => &["albedo"],
                _ => continue,
            };
            assert!(homes.contains(&member.as_str()), "{name} in {member}, at home in {homes:?}");
        }
    }
}

/// Crates that cost a builder minutes, a C compiler or a system
/// library, by what they are for and how their names begin.
const HEAVY: [(&str, &[&str]); 8] = [
    ("inference", &["burn", "cube", "tokenizers", "minijinja"]),
    ("threads", &["rayon"]),
    ("gpu", &["cubecl-cuda", "cubek", "cudarc"]),
    ("network", &["reqwest", "hyper", "rustls"]),
    ("tables", &["parquet", "arrow"]),
    ("database", &["rusqlite", "libsqlite3-sys"]),
    ("terminal", &["clap", "indicatif"]),
    ("chain", &["subxt"]),
];

#[test]
fn a_feature_brings_only_the_heavy_crates_it_is_for() {
    const INFERENCE: &[&str] = &["inference", "threads"];
    const GPU: &[&str] = &["inference", "threads", "gpu"];
    // A client of jobs counts prompts with the tokenizer of the served model.
    const SERVE: &[&str] = &["inference", "threads", "network"];
    const SERVER: &[&str] = &["inference", "threads", "network", "database"];
    let cases: [(&str, &str, &[&str]); 47] = [
        ("albedo-core", "", &[]),
        ("albedo-core", "conformance", &[]),
        ("albedo-core", "signatures", &[]),
        ("albedo-backends", "", &[]),
        ("albedo-backends", "burn", INFERENCE),
        ("albedo-backends", "cuda", GPU),
        ("albedo-backends", "http", &["network"]),
        ("albedo-backends", "http-conformance", &["network"]),
        ("albedo-backends", "hubs", &["network"]),
        ("albedo-backends", "nats", SERVE),
        ("albedo-backends", "openai", &["network"]),
        ("albedo-backends", "serve", SERVE),
        ("albedo-backends", "text", INFERENCE),
        ("albedo-backends", "scripted-server", &["network"]),
        ("albedo-backends", "tasks", &["tables"]),
        ("albedo-judges", "", &[]),
        ("albedo-judges", "process", &[]),
        ("albedo-judges", "screens", &["threads", "database"]),
        ("albedo-chain", "", &["database"]),
        ("albedo-chain", "wallet", &["database"]),
        ("albedo-chain", "subtensor", &["network", "database", "chain"]),
        ("albedo-chain", "test-node", &["network", "database", "chain"]),
        ("albedo-demo", "", &[]),
        ("albedo", "", &[]),
        ("albedo", "bench", &[]),
        ("albedo", "cli", &["tables", "terminal"]),
        ("albedo", "config", &[]),
        ("albedo", "conformance", &[]),
        ("albedo", "tasks", &["tables"]),
        ("albedo", "cpu", INFERENCE),
        ("albedo", "cuda", GPU),
        ("albedo", "decide", &[]),
        ("albedo", "demo", &[]),
        ("albedo", "distil", &["inference", "threads", "tables", "database"]),
        ("albedo", "hubs", &["network"]),
        ("albedo", "openai", &["network"]),
        ("albedo", "publish", &["network", "tables", "database"]),
        ("albedo", "nats", SERVER),
        ("albedo", "serve", SERVE),
        ("albedo", "server", SERVER),
        ("albedo", "judges", &[]),
        ("albedo", "report", &["terminal"]),
        ("albedo", "screens", &["threads", "database"]),
        ("albedo", "chain", &["network", "database", "chain"]),
        ("albedo", "chain-node", &["network", "database", "chain"]),
        ("albedo", "signatures", &[]),
        ("albedo", "validator", &["inference", "threads", "network", "tables", "database"]),
    ];
    let listed = cases.map(|(member, feature, _)| (member.to_owned(), feature.to_owned()));
    assert_eq!(BTreeSet::from(listed), features(), "every feature is listed");
    for (member, feature, meant) in cases {
        let tree = ["tree", "--package", member, "--no-default-features", "--features", feature];
        let tree = cargo(&[&tree[..], &["--edges", "normal", "--prefix", "none"]].concat());
        let names: Vec<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(member == "albedo-demo" || names.contains(&"serde"), "{member} {feature}: {tree}");
        let brought = HEAVY.iter().filter(|(_, crates)| {
            names.iter().any(|name| crates.iter().any(|heavy| name.starts_with(heavy)))
        });
        let brought: Vec<_> = brought.map(|(purpose, _)| *purpose).collect();
        assert_eq!(brought, meant, "{member}, feature `{feature}`");
    }
}
