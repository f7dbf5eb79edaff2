use super::*;

const SMALL: &str = r#"
    judges = []
    king.path = "k"
    challenger.path = "c"
    tasks.name = "parquet"
"#;

#[test]
fn defaults_fill_what_is_left_out() {
    let config = DuelConfig::parse(SMALL).expect("reads");
    assert_eq!(config.backend, None);
    assert_eq!(config.duel, DuelSettings::default());
}

#[test]
fn what_is_saved_reads_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = format!("{SMALL}\ntasks.path = \"t\"\nduel.seed = 7\nduel.sampler = \"albedo-py\"");
    let config = DuelConfig { folder: "/somewhere".into(), ..DuelConfig::parse(&text).expect("reads") };
    let key = |byte| JournalKey::new([byte; 32]);
    let anchor = config.save_new(folder.path(), &key(1)).expect("saves");
    assert_eq!(config.tag(&key(1)).expect("a tag"), anchor);
    let saved = || DuelConfig::saved(folder.path()).expect("reads");
    assert_eq!(saved().of(&key(1)).expect("digests"), Some((config.clone(), anchor)));
    assert_eq!(saved().of(&key(2)).expect("digests"), None, "another user's");
    // A run that asked nothing yet holds no duel.
    config.save_new(folder.path(), &key(1)).expect("saves again");
    std::fs::write(folder.path().join("journal.jsonl"), "").expect("writes");
    let error = config.save_new(folder.path(), &key(1)).expect_err("is taken");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let path = folder.path().join(SAVED);
    let altered = std::fs::read_to_string(&path).expect("reads").replace("somewhere", "elsewhere");
    std::fs::write(&path, altered).expect("writes");
    assert_eq!(saved().of(&key(1)).expect("digests"), None, "altered");
    assert_eq!(saved().unverified().folder, Path::new("/elsewhere"));
}

#[test]
fn a_plugins_other_keys_are_its_settings() {
    let config = DuelConfig::parse(&format!("{SMALL}\ntasks.path = \"t\"")).expect("reads");
    assert_eq!(config.tasks.settings()["path"], "t");
}

#[test]
fn the_guides_panel_is_well_formed() {
    let guide = include_str!("../../../docs/judge-panels.md");
    let (_, panel) = guide.split_once("```toml\n").expect("an example");
    let (panel, _) = panel.split_once("```").expect("its end");
    let sides = "king.path = \"k\"\nchallenger.path = \"c\"\ntasks = { name = \"parquet\", path = \"t\" }\n";
    let config = DuelConfig::parse(&format!("{sides}{panel}")).expect("reads");
    config.check(&Registry::linked().expect("links")).expect("is well-formed");
    assert_eq!((config.judges.len(), config.duel.canaries.is_some()), (3, true));
}

#[test]
fn mistakes_are_named_with_their_path() {
    for (line, expected) in [
        ("duel.sampels = 3", "unknown field `sampels`"),
        ("duel.sampels = 3", "key: duel.sampels"),
        ("duel.generation.max_new_tokens = \"many\"", "key: duel.generation.max_new_tokens"),
        ("king.parameters = \"abc\"", "is not 64 hexadecimal digits"),
        ("duel.rule = { name = \"majority\" }", "unknown variant `majority`"),
        ("duel.seed = -1", "a seed is not negative"),
        ("duel = ", "line: 6"),
    ] {
        let error = DuelConfig::parse(&format!("{SMALL}{line}")).expect_err("a mistake");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let error = DuelConfig::parse("judges = []").expect_err("no king");
    assert!(error.to_string().contains("missing field `king`"), "{error}");
}

#[test]
fn each_side_may_have_a_backend_of_its_own() {
    let registry = Registry::linked().expect("links");
    let whole = format!("{SMALL}\ntasks.path = \"t\"\n");
    let check = |lines: &str| DuelConfig::parse(&format!("{whole}{lines}")).expect("reads").check(&registry);
    check("king.backend = { name = \"burn\", max_batch = 8 }").expect("the other is the default");
    check("king.backend.name = \"burn\"\nchallenger.backend.name = \"burn\"").expect("each");
    for (lines, words) in [
        (
            "king.backend = { name = \"burn\", max_bach = 8 }",
            "key: king.backend.max_bach); did you mean `max_batch`?",
        ),
        ("challenger.backend.name = \"brun\"", "key: challenger.backend); did you mean `burn`?"),
        (
            "backend.name = \"burn\"\nking.backend.name = \"burn\"\nchallenger.backend.name = \"burn\"",
            "no side uses it (key: backend)",
        ),
    ] {
        let error = check(lines).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// `fixtures/` has what the first version wrote and read.
#[test]
fn configurations_of_the_first_version_still_read() {
    let registry = Registry::linked().expect("links");
    let written = DuelConfig::parse(include_str!("fixtures/duel-1.toml")).expect("reads");
    let folder = tempfile::tempdir().expect("a folder");
    let kept = include_str!("fixtures/saved-1.json");
    std::fs::write(folder.path().join(SAVED), kept).expect("writes");
    let saved = DuelConfig::saved(folder.path()).expect("reads").unverified();
    assert_eq!(saved, DuelConfig { folder: "/srv/duel".into(), ..written });
    saved.check(&registry).expect("is well-formed");

    saved.save(folder.path(), &JournalKey::new([1; 32])).expect("saves");
    let json = |text: &str| {
        let mut json = serde_json::from_str::<Value>(text).expect("JSON");
        json.as_object_mut().expect("an object").remove("mac");
        json
    };
    let again = std::fs::read_to_string(folder.path().join(SAVED)).expect("reads");
    assert_eq!(json(&again), json(kept), "nothing is added that an older version could not read");
}

#[test]
fn the_guides_configurations_are_well_formed() {
    let registry = Registry::linked().expect("links");
    let guide = include_str!("../../../docs/configuration.md");
    let mut blocks = guide.split("```toml\n").skip(1).map(|rest| rest.split("```").next().expect("a block"));
    let whole = blocks.next().expect("a whole configuration");
    let hub = blocks.next().expect("a model in a hub");
    let sides = blocks.next().expect("a backend for each side");
    // What a later block shows stands in place of the whole one's beginning.
    let before = |table: &str, block: &str| {
        whole.split_once(table).map(|(_, rest)| format!("{block}{table}{rest}")).expect("has the table")
    };
    for text in [whole.to_owned(), before("[challenger]", hub), before("[tasks]", sides)] {
        // Not every build has GPU support.
        let text = text.replace("cuda:0", "cpu").replace("cuda:1", "cpu");
        let config = DuelConfig::parse(&text).expect("reads");
        config.check(&registry).expect("is well-formed");
        assert_eq!(config.screens.as_ref().map_or(0, Vec::len), 1);
    }
}
