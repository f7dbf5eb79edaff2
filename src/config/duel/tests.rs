use super::*;

const SMALL: &str = r#"
    judges = [{ name = "protocol" }]
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

#[cfg(unix)]
#[test]
fn a_configuration_in_a_folder_whose_name_is_no_text_is_the_operators_to_move() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().expect("a folder");
    let strange = folder.path().join(std::ffi::OsStr::from_bytes(b"c\xff"));
    let config = DuelConfig {
        folder: strange,
        ..DuelConfig::parse(&format!("{SMALL}\ntasks.path = \"t\"")).expect("reads")
    };
    let key = JournalKey::new([1; 32]);
    for error in
        [config.save_new(folder.path(), &key), config.tag(&key)].map(|saved| saved.expect_err("no text"))
    {
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("rename")), "{error}");
    }
    assert!(!folder.path().join(SAVED).exists(), "nothing was kept");
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
        ("duel.sampels = 3", "unknown key `sampels`"),
        ("duel.sampels = 3", "key: duel.sampels"),
        ("duel.generation.max_new_tokens = \"many\"", "key: duel.generation.max_new_tokens"),
        ("king.parameters = \"abc\"", "is not 64 hexadecimal digits"),
        ("duel.rule = { name = \"majority\" }", "unknown value `majority`"),
        ("duel.seed = -1", "a seed is not negative"),
        ("duel = ", "line: 6"),
    ] {
        let error = DuelConfig::parse(&format!("{SMALL}{line}")).expect_err("a mistake");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let error = DuelConfig::parse("judges = []").expect_err("no king");
    assert!(error.to_string().contains("`king` is missing"), "{error}");
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

#[test]
fn a_panel_has_a_judge_and_none_twice() {
    let registry = Registry::linked().expect("links");
    let check = |judges: &str| {
        let text = SMALL.replace("[{ name = \"protocol\" }]", judges);
        DuelConfig::parse(&format!("{text}\ntasks.path = \"t\"")).expect("reads").check(&registry)
    };
    let error = check("[]").expect_err("nobody").to_string();
    assert!(error.contains("there is no judge (key: judges)"), "{error}");
    let twice = "[{ name = \"protocol\" }, { name = \"reference-action\" }, { name = \"protocol\" }]";
    let error = check(twice).expect_err("twice").to_string();
    assert!(error.contains("`protocol` is on the panel twice (key: judges[2])"), "{error}");
    let required = "[{ name = \"protocol\" }, { name = \"protocol\", required_parts = [\"ANSWER:\"] }]";
    check(required).expect("two voices");
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let doubts = |sides: &str| {
        let rest = "judges = []\ntasks.name = \"parquet\"";
        DuelConfig::parse(&format!("{sides}\n{rest}")).expect("reads").doubts()
    };
    let sides = |king: &str, challenger: &str| doubts(&format!("king = {king}\nchallenger = {challenger}"));
    assert_eq!(sides("{ path = \"m/king\" }", "{ path = \"m/challenger\" }"), [""; 0]);
    assert_eq!(sides("{ name = \"a\" }", "{ name = \"a\" }"), [BOTH_SIDES]);
    assert_eq!(
        sides("{ path = \"kings/a\" }", "{ path = \"kings/b\" }"),
        [""; 0],
        "only the last part counts"
    );
    for [king, challenger] in [
        ["{ path = \"m/challenger\" }", "{ path = \"m/king\" }"],
        ["{ path = \"a\" }", "{ path = \"m/the-king\" }"],
        ["{ name = \"org/Challenger-4B\" }", "{ path = \"b\" }"],
    ] {
        let said = sides(king, challenger);
        assert!(matches!(&said[..], [one] if one.contains("look exchanged")), "{said:?}");
    }
}

#[test]
fn a_judge_is_called_by_its_label() {
    let config = DuelConfig::parse(
        "king.path = \"k\"\nchallenger.path = \"c\"\ntasks.name = \"t\"\n\
         judges = [{ name = \"chat\", label = \"glm\" }, { name = \"protocol\" }]",
    );
    assert_eq!(config.expect("reads").judge_labels().collect::<Vec<_>>(), ["glm", "protocol"]);
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
