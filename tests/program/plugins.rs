//! What the program is built with.

use albedo::Registry;

#[test]
fn every_plugin_is_linked() {
    let plugins = Registry::linked().expect("no name is taken twice").list();
    let names: Vec<_> = plugins.iter().map(|plugin| format!("{} {}", plugin.role, plugin.name)).collect();
    assert_eq!(
        names,
        [
            "backend burn",
            "backend openai",
            "backend replay",
            "backend routes",
            "backend serve",
            "tasks parquet",
            "judge chat",
            "judge process",
            "judge protocol",
            "judge reference-action",
            "judge reference-likelihood",
            "judge replay",
            "screen architecture",
            "screen digest",
            "screen files",
            "screen fingerprint-v2",
            "screen functional",
            "screen injection",
            "screen lineage",
            "screen loops",
            "screen process",
            "screen sanity",
            "screen tail",
            "chain local",
            "store file",
            "store memory",
            "hub folder",
            "hub hf",
            "hub oci",
        ]
    );
    assert!(plugins.iter().all(|plugin| !plugin.summary.is_empty()));
}

#[test]
fn the_program_lists_them_with_their_settings() {
    let listed = crate::run::stdout(&crate::run::albedo(["plugins"]));
    assert!(listed.contains("backend burn\n"), "{listed}");
    assert!(listed.contains("max_batch (whole number, default 32)"), "{listed}");
    assert!(listed.contains("path (text, required)"), "{listed}");
    for part in ["rule margin-lcb\n", "terms reign\n", "reducer median\n", "sampler albedo-py\n"] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let json = crate::run::stdout(&crate::run::albedo(["plugins", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json["items"].as_array().is_some_and(|plugins| plugins.len() > 3));
}

#[test]
fn a_name_or_a_role_chooses_among_them() {
    let listed = |arguments: &[&str]| {
        let arguments = ["plugins"].into_iter().chain(arguments.iter().copied());
        crate::run::stdout(&crate::run::albedo(arguments))
    };
    let headings = |text: &str| {
        text.lines()
            .filter(|line| !line.starts_with(' ') && !line.is_empty())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(headings(&listed(&["chat"])), ["judge chat"]);
    assert_eq!(headings(&listed(&["replay"])), ["backend replay", "judge replay"]);
    assert_eq!(headings(&listed(&["replay", "--role", "judge"])), ["judge replay"]);
    let rules = listed(&["--role", "rule"]);
    assert_eq!(headings(&rules), ["rule sequential", "rule fixed", "rule margin", "rule margin-lcb"]);
    assert!(rules.contains("win_margin (number, points, default 2.0)"), "{rules}");
    for (wrong, hint) in [(&["chatt"][..], "chat"), (&["--role", "jugde"][..], "roles: backend")] {
        let output = crate::run::albedo(["plugins"].into_iter().chain(wrong.iter().copied()));
        assert_eq!(output.status.code(), Some(78));
        assert!(crate::run::error(&output).contains(hint), "{}", crate::run::error(&output));
    }
}
