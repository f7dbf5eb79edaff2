use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::*;
use crate::distil::config::{Rows, Source};
use crate::{CallContext, Registry};

/// Which ids of some rows of the demo carry a loss, by another program than this.
const GOLDEN: &str = include_str!("golden.json");

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo")
}

fn config(data: &str) -> DistilConfig {
    let text = format!(
        "gate = \"none\"\nstudent.path = \"models/king\"\n{data}\n[[stage]]\nobjective = \"sft\"\nsteps = 1"
    );
    DistilConfig { folder: demo(), ..DistilConfig::parse(&text).expect("reads") }
}

async fn view(config: &DistilConfig) -> Result<View> {
    let (registry, cx) = (Registry::linked()?, CallContext::new());
    View::read(config, &BuildContext::new(&registry, &cx)).await
}

/// The first `rows` conversations of the demo's training set, in a file of their own.
fn some(folder: &Path, rows: usize, change: impl Fn(usize, String) -> String) -> PathBuf {
    use std::io::Read;

    let mut text = String::new();
    let file = std::fs::File::open(demo().join("distil.jsonl.gz")).expect("opens");
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).expect("reads");
    let lines = text.lines().take(rows).enumerate().map(|(row, line)| change(row, line.to_owned()) + "\n");
    let path = folder.join("some.jsonl");
    std::fs::write(&path, lines.collect::<String>()).expect("writes");
    path
}

#[derive(Deserialize)]
struct Golden {
    rows: Vec<GoldenRow>,
}

#[derive(Deserialize)]
struct GoldenRow {
    row: usize,
    instance: String,
    ids: Vec<u32>,
    replies: Vec<[usize; 2]>,
}

#[tokio::test]
async fn the_loss_is_on_replies_and_their_closing_tokens_alone() {
    let golden: Golden = serde_json::from_str(GOLDEN).expect("the golden file");
    let view =
        view(&config("data.tasks = [\"distil.jsonl.gz\"]\ndata.split = \"none\"")).await.expect("reads");
    let stage = config("data.tasks = [\"x\"]").stage.remove(0);
    let set = &view.sets[&Turns::AllRecorded];
    assert_eq!(set.len(), 894, "no row of the demo is repeated");
    for GoldenRow { row, instance, ids, replies } in golden.rows {
        assert_eq!(set[row].instance, instance);
        let rows = view.rows(&stage, Place { row, pass: 0 }).expect("encodes");
        let [Row { ids: own, weights }] = &rows[..] else { panic!("{} rows", rows.len()) };
        assert_eq!(*own, ids, "{instance}");
        let trained: Vec<usize> =
            weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0).map(|(place, _)| place).collect();
        let expected: Vec<usize> = replies.iter().flat_map(|[start, end]| *start..*end).collect();
        assert_eq!(trained, expected, "{instance}");
        assert!(weights.iter().all(|weight| [0.0, 1.0].contains(weight)));
    }
}

#[tokio::test]
async fn prompts_count_as_much_as_the_stage_says() {
    let data = "data.tasks = [\"distil.jsonl.gz\"]\ndata.split = \"none\"";
    let view = view(&config(data)).await.expect("reads");
    let mut stage = config(data).stage.remove(0);
    let place = Place { row: 0, pass: 0 };
    let rows = |stage: &StageSettings| view.rows(stage, place).expect("encodes");
    let alone = rows(&stage);
    stage.prompts = 0.25;
    let both = rows(&stage);
    assert_eq!(alone.len(), both.len());
    for (alone, both) in alone.iter().zip(&both) {
        assert_eq!((alone.ids.len(), both.weights[0]), (both.ids.len(), 0.0), "nothing is before the first");
        for (alone, both) in alone.weights.iter().zip(&both.weights).skip(1) {
            assert_eq!(*both, if *alone > 0.0 { *alone } else { 0.25 });
        }
    }
}

#[test]
fn what_two_rows_of_a_conversation_begin_with_counts_once() {
    const WEIGHTS: Weights = Weights { replies: 1.0, prompts: 0.25 };
    // The engine goes on behind what the template closes a reply with: each turn is a row.
    let (king, folder) = (demo().join("models/king"), tempfile::tempdir().expect("a folder"));
    std::fs::copy(king.join("tokenizer.json"), folder.path().join("tokenizer.json")).expect("copies");
    let config = std::fs::read_to_string(king.join("tokenizer_config.json")).expect("reads");
    let config = config.replace("\"eos_token\": \"<|im_end|>\"", "\"eos_token\": \"<|endoftext|>\"");
    std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("writes");
    std::fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": 4089}").expect("writes");
    let text = PromptText::load(folder.path()).expect("loads");
    assert!(text.endless().is_some());
    let messages = [
        (MessageRole::User, "It fails."),
        (MessageRole::Assistant, "I look."),
        (MessageRole::User, "a.py"),
        (MessageRole::Assistant, "Done."),
    ];
    let tokens = text.conversation(&messages.map(|(role, text)| Message::new(role, text))).expect("encodes");
    let rows = rows_of(tokens.clone(), 1000, WEIGHTS);
    let [first, second] = &rows[..] else { panic!("{} rows", rows.len()) };
    let starts = [&tokens[0], &tokens[1]].map(|row| row.replies[0].start);
    assert_eq!(first.weights[..2], [0.0, 0.25], "nothing is before the first");
    assert_eq!(first.weights[1..starts[0]], vec![0.25; starts[0] - 1]);
    // All of the first row but the token that closes it.
    let seen = first.ids.len() - 1;
    assert_eq!((&second.ids[..seen], seen < starts[1]), (&first.ids[..seen], true));
    assert_eq!(second.weights[..seen], vec![0.0; seen]);
    assert_eq!(second.weights[seen..starts[1]], vec![0.25; starts[1] - seen]);
    assert_eq!(second.weights[starts[1]..], vec![1.0; second.ids.len() - starts[1]]);

    // Rows that the cap leaves nothing of are not there: what they begin with has not counted.
    let row = |ids: &[u32], reply: usize| ConversationTokens {
        ids: ids.to_vec(),
        replies: std::iter::once(ids.len() - reply..ids.len()).collect(),
    };
    let three = [row(&[1, 2, 3, 4], 2), row(&[1, 2, 9, 9, 5, 6, 7], 1), row(&[1, 2, 9, 5, 6], 1)];
    let weights = |cap: usize| {
        let rows = rows_of(three.to_vec(), cap, WEIGHTS);
        rows.into_iter().map(|row| row.weights).collect::<Vec<_>>()
    };
    let first = vec![0.0_f32, 0.25, 1.0, 1.0];
    let second = vec![0.0_f32, 0.0, 0.25, 0.25, 0.25, 0.25, 1.0];
    assert_eq!(weights(7), [first.clone(), second, vec![0.0, 0.0, 0.0, 0.25, 1.0]]);
    assert_eq!(weights(5), [first, vec![0.0, 0.0, 0.25, 0.25, 1.0]]);
}

#[tokio::test]
async fn what_the_cap_cuts_is_counted_and_no_reply_loses_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = some(folder.path(), 12, |_, line| line);
    let mut config = config("data.tasks = [\"x\"]\ndata.split = \"none\"");
    config.data.tasks = vec![Source::from(path)];
    let whole = view(&config).await.expect("reads").report.sets.remove(0);
    assert_eq!((whole.rows, whole.cut, whole.dropped, whole.cut_supervised), (12, 0, 0, 0));
    config.train.max_tokens = 400;
    let cut = view(&config).await.expect("reads");
    let report = &cut.report.sets[0];
    assert_eq!(report.rows + report.dropped, 12);
    assert_eq!(report.supervised + report.cut_supervised, whole.supervised);
    assert!(report.cut > 0 && report.tokens < whole.tokens, "{report:?}");
    let stage = config.stage[0].clone();
    for row in 0..report.rows as usize {
        for Row { ids, weights } in cut.rows(&stage, Place { row, pass: 0 }).expect("encodes") {
            assert!(ids.len() <= 400);
            assert_eq!(
                (ids.last(), weights.last()),
                (Some(&4091), Some(&1.0)),
                "the closing token is trained"
            );
        }
    }
    config.train.max_tokens = 20;
    let error = view(&config).await.expect_err("nothing is left").to_string();
    assert!(error.contains("no conversation to learn from") && error.contains("too long: 12"), "{error}");
}

#[tokio::test]
async fn conversations_without_room_for_a_sampled_reply_are_left_out_and_counted() {
    const REPLY: u32 = 64;
    let folder = tempfile::tempdir().expect("a folder");
    let path = some(folder.path(), 12, |_, line| line);
    let mut config = config("data.tasks = [\"x\"]\ndata.rename = true\ndata.split = \"none\"");
    config.data.tasks = vec![Source::from(path)];
    let all = view(&config).await.expect("reads");
    let length = |prompt: &[Message]| all.text.answered(prompt, &[]).expect("encodes").ids.len();
    let first = |example: &Example| length(&example.messages[..2]);
    let mut lengths: Vec<usize> = all.sets[&Turns::AllRecorded].iter().map(first).collect();
    lengths.sort_unstable();

    let mut stage = config.stage[0].clone();
    (stage.objective, stage.max_new_tokens) = (Objective::OnPolicy, Some(REPLY));
    config.stage.push(stage.clone());
    config.train.max_tokens = lengths[5] + REPLY as usize;
    let roomy = lengths.iter().filter(|length| **length <= lengths[5]).count();
    let read = view(&config).await.expect("reads");
    let report = &read.report.sets[0];
    assert!(roomy < report.rows as usize, "{lengths:?}");
    assert_eq!((read.len(&stage), read.len(&config.stage[0])), (roomy, report.rows as usize));
    assert_eq!(report.without_room, BTreeMap::from([(REPLY, report.rows - roomy as u64)]));
    for (row, pass) in (0..roomy).flat_map(|row| (0..20).map(move |pass| (row, pass))) {
        let prompt = read.prompt(&stage, Place { row, pass }).expect("leaves room");
        assert!(length(&prompt) + REPLY as usize <= config.train.max_tokens);
    }

    config.stage[1].max_new_tokens = Some(10_000);
    let error = view(&config).await.expect_err("nothing leaves room").to_string();
    assert!(error.contains("no prompt leaves room") && error.contains("stage[1].max_new_tokens"), "{error}");
}

#[tokio::test]
async fn held_out_tasks_texts_and_repositories_are_left_out_and_counted() {
    let (folder, held) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let path = some(folder.path(), 6, |_, line| line);
    let own = |field: &str, value: String, line: &str| {
        let mut row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        row[field] = value.into();
        row.to_string()
    };
    // Held out: the first task by its id, the second by its text, under other repositories.
    let same = some(held.path(), 2, |row, line| {
        let line = own("repo", format!("other/{row}"), &line);
        if row == 1 { own("instance_id", "another".into(), &line) } else { line }
    });
    let mut config = config("data.tasks = [\"x\"]");
    config.data.tasks = vec![Source::from(path.clone())];
    config.data.held_out = vec![Source::from(same)];
    let read = view(&config).await.expect("reads");
    let LeftOut { same_task, same_text, held_out_repos, .. } = read.report.left_out;
    assert!(same_task >= 1 && same_text >= 1 && held_out_repos == 0, "{:?}", read.report.left_out);
    assert_eq!(read.report.sets[0].rows + same_task + same_text, 6);
    assert_eq!((read.report.held_out.rows, read.report.held_out.measured), (2, 2));

    // The same file is refused.
    config.data.held_out = vec![Source::from(path)];
    let error = view(&config).await.expect_err("the same").to_string();
    assert!(error.contains("the tasks are held out, too"), "{error}");

    // Without a set of its own, a tenth of the repositories is held out.
    config.data.held_out.clear();
    config.data.tasks = vec![Source::from(demo().join("distil.jsonl.gz"))];
    config.data.held_out_rows = Rows(3);
    let read = view(&config).await.expect("reads");
    let Held { rows, repos, measured } = read.report.held_out;
    assert!(rows > 0 && repos > 0 && repos < 15, "{repos} of 45 repositories");
    assert_eq!((rows, measured), (read.report.left_out.held_out_repos, 3));
    assert_eq!(read.report.sets[0].repos + repos, 45);
}

#[tokio::test]
async fn copies_have_other_names_and_the_same_form_and_sources_their_license() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = some(folder.path(), 4, |_, line| line);
    let mut config = config("data.tasks = [\"x\"]\ndata.rename = true\ndata.split = \"none\"");
    config.data.tasks = vec![Source::from(path)];
    let read = view(&config).await.expect("reads");
    assert_eq!(read.report.sets[0].licenses, BTreeMap::from([("unknown".to_owned(), 4)]));
    let stage = config.stage[0].clone();
    let mut kept = 0;
    let plain = View { rename: false, ..view(&config).await.expect("reads") };
    for pass in 0..32 {
        let [copy, original] = [&read, &plain].map(|view| {
            let mut rows = view.rows(&stage, Place { row: 2, pass }).expect("encodes");
            assert_eq!(rows.len(), 1);
            rows.remove(0)
        });
        let replies = |row: &Row| row.ids.iter().filter(|id| **id == 4091).count();
        assert_eq!(replies(&copy), replies(&original), "as many turns");
        kept += usize::from(copy == original);
        let again = read.rows(&stage, Place { row: 2, pass }).expect("encodes").remove(0);
        assert_eq!(copy, again, "a copy follows from seed, row and pass");
    }
    assert!((1..8).contains(&kept), "{kept} of 32 copies keep their names");
}

#[tokio::test]
async fn winners_keep_their_ids_and_weigh_as_much_as_their_margin() {
    let text = PromptText::load(&demo().join("models/king")).expect("the demo's king");
    let example = |reply: Option<Reply>| Example {
        id: "a".into(),
        repo: "r".into(),
        instance: "i".into(),
        messages: vec![
            Message::new(MessageRole::User, "one"),
            Message::new(MessageRole::Assistant, "two"),
            Message::new(MessageRole::User, "three"),
            Message::new(MessageRole::Assistant, "four"),
        ],
        reply,
        rejected: None,
        license: None,
    };
    let mut stage = config("data.tasks = [\"x\"]").stage.remove(0);
    (stage.turns, stage.weight) = (Turns::Winner, Weight::Margin);
    let report = view(&config("data.tasks = [\"distil.jsonl.gz\"]")).await.expect("reads").report;
    let mut of = View {
        text,
        sets: BTreeMap::new(),
        roomy: BTreeMap::new(),
        measured: Vec::new(),
        rename: false,
        seed: 0,
        max_tokens: 100,
        report,
    };
    let mut rows = |ids: &[u32]| {
        let reply = Reply { ids: ids.to_vec(), margin: 0.25 };
        of.sets.insert(Turns::Winner, vec![example(Some(reply))]);
        of.rows(&stage, Place { row: 0, pass: 0 }).expect("encodes")
    };
    let trained = |row: &Row| {
        let trained = row.ids.iter().zip(&row.weights).filter(|(_, weight)| **weight > 0.0);
        trained.map(|(id, weight)| (*id, *weight)).collect::<Vec<_>>()
    };
    let sampled = rows(&[7, 8, 4091]);
    assert_eq!(trained(&sampled[0]), [(7, 0.25), (8, 0.25), (4091, 0.25)]);
    // Without ids the text is encoded; the earlier turn is not the winner's.
    let encoded = rows(&[]);
    assert_eq!(encoded.len(), 1);
    let last = trained(&encoded[0]);
    assert_eq!(last.last(), Some(&(4091, 0.25)));
    assert!(last.len() < 5, "{last:?}");
}
