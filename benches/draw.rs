//! Drawing 128 turns from 12 million rows in 1,200 shards, with rows that cost
//! nothing, and what rows cost: reads from the demo's shards. Times, and the
//! most memory held at once.
#![expect(clippy::expect_used, reason = "a bench that cannot run can only say so")]

use std::path::PathBuf;
use std::sync::Arc;

use albedo_backends::tasks::{Manifest, ParquetTasks, ParquetTasksConfig};
use albedo_core::decision::RuleVersion;
use albedo_core::draw::Drawer;
use albedo_core::panel::PanelSettings;
use albedo_core::plan::{ContestantPlan, GenerationSettings, Lanes, Sampler, Terms};
use albedo_core::testing::{Rows, ScriptedSession};
use albedo_core::{
    CallContext, Digest, DuelPlan, Identity, Message, MessageRole, ModelInfo, ModelSession, Rule, Seed,
    TaskRow, TaskSetInfo, TaskSource,
};
use divan::{AllocProfiler, Bencher};
use tokio::runtime::{Builder, Runtime};

const SHARDS: u64 = 1_200;
const ROWS_PER_SHARD: u64 = 10_000;
const SAMPLES: u32 = 128;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// The manifest read, and then all samples drawn.
#[divan::bench(args = [Sampler::RowDraw, Sampler::AlbedoPy])]
fn draw(bencher: Bencher<'_, '_>, sampler: Sampler) {
    let (runtime, cx) = (runtime(), CallContext::new());
    // Asked for prompts only, and cannot tell.
    let king: Arc<dyn ModelSession> = Arc::new(ScriptedSession::saying("king", "never").counting(|_| None));
    bencher.with_inputs(manifest).bench_values(|manifest| {
        let tasks = instant_tasks(Manifest::parse(manifest.as_bytes()).expect("a manifest"));
        let mut drawer = Drawer::new(&plan(sampler, tasks.info()), Arc::new(tasks));
        let mut drawn = 0;
        while runtime.block_on(drawer.next(&king, &cx)).expect("draws").is_some() {
            drawn += 1;
        }
        assert_eq!(drawn, SAMPLES);
    });
}

/// One row, its shard verified and open.
#[divan::bench]
fn row_read(bencher: Bencher<'_, '_>) {
    let (runtime, cx) = (runtime(), CallContext::new());
    let tasks = runtime.block_on(ParquetTasks::open(demo(), &cx)).expect("opens");
    let read = |row| runtime.block_on(tasks.row(row, &cx)).expect("reads");
    let rows = tasks.info().rows;
    let mut row = 0;
    let next = || {
        row = (row + 37) % rows;
        row
    };
    (0..rows).for_each(|row| drop(read(row)));
    bencher.with_inputs(next).bench_local_values(read);
}

/// One row of tasks that are opened for it.
#[divan::bench]
fn first_row_read(bencher: Bencher<'_, '_>) {
    let (runtime, cx) = (runtime(), CallContext::new());
    bencher.bench_local(|| {
        let tasks = runtime.block_on(ParquetTasks::open(demo(), &cx)).expect("opens");
        runtime.block_on(tasks.row(99, &cx)).expect("reads")
    });
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime")
}

fn demo() -> ParquetTasksConfig {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/demo/tasks");
    ParquetTasksConfig::folder(path)
}

fn manifest() -> String {
    let shard = |shard| {
        let sha256 = Digest::of(format!("{shard}"));
        format!(r#"{{"name":"data/train-{shard:05}.parquet","rows":{ROWS_PER_SHARD},"sha256":"{sha256}"}}"#)
    };
    let shards: Vec<_> = (0..SHARDS).map(shard).collect();
    format!(r#"{{"shards":[{}],"total_rows":{}}}"#, shards.join(","), SHARDS * ROWS_PER_SHARD)
}

fn plan(sampler: Sampler, tasks: &TaskSetInfo) -> DuelPlan {
    let digest = Digest::of("");
    let model = ModelInfo::new(digest, "none", 32_768).with_text(digest, digest, vec![]).with_config(digest);
    let backend = Identity { name: "none".into(), version: "1".into(), config: digest };
    let contestant = ContestantPlan { model, backend };
    DuelPlan {
        version: None,
        king: contestant.clone(),
        challenger: contestant,
        tasks: tasks.clone(),
        sampler,
        samples: SAMPLES,
        looks: vec![SAMPLES],
        seed: Seed::from(2_000_061_265_262_017_674),
        context_tokens: 32_768,
        generation: GenerationSettings::default(),
        lanes: Lanes::default(),
        judges: vec![],
        panel: PanelSettings::default(),
        rule: Rule::default(),
        rule_version: RuleVersion::NEWEST,
        terms: Terms::default(),
        previous: None,
        canaries: None,
        twins: None,
        effect_prior: None,
        admission: None,
        call_tries: None,
        behaviour: None,
    }
}

/// The manifest's rows, each found and then made up.
fn instant_tasks(manifest: Manifest) -> Rows {
    let info = manifest.info().clone();
    let row = move |row| {
        let (shard, place) = manifest.locate(row).expect("a row");
        let roles = [MessageRole::User, MessageRole::Assistant].into_iter().cycle().take(16);
        TaskRow {
            instance_id: format!("{shard}:{place}"),
            repo: String::new(),
            messages: roles.map(|role| Message::new(role, "")).collect(),
        }
    };
    Rows::new(info.rows, row).with_info(info)
}
