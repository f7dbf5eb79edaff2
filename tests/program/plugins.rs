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
            "tasks parquet",
            "judge chat",
            "judge protocol",
            "judge reference-action",
            "judge reference-likelihood",
            "judge replay",
            "screen architecture",
            "screen digest",
            "screen files",
            "screen fingerprint-v2",
            "screen injection",
            "screen lineage",
            "screen loops",
            "screen sanity",
            "screen tail",
            "store file",
            "store memory",
            "hub folder",
        ]
    );
    assert!(plugins.iter().all(|plugin| !plugin.summary.is_empty()));
}

#[test]
fn the_program_lists_them_with_their_settings() {
    let listed = crate::run::stdout(&crate::run::albedo(["plugins"]));
    assert!(listed.contains("backend burn\n"), "{listed}");
    assert!(listed.contains("max_batch (default 32)"), "{listed}");
    assert!(listed.contains("path (required)"), "{listed}");
    let json = crate::run::stdout(&crate::run::albedo(["plugins", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json.as_array().is_some_and(|plugins| plugins.len() > 3));
}
