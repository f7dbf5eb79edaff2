use proptest::prelude::*;

use super::*;
use crate::backend::{Message, ModelInfo, Role};
use crate::decision::{Rule, RuleVersion};
use crate::digest::Digest;
use crate::error::Fault;
use crate::identity::Identity;
use crate::panel::PanelSettings;
use crate::plan::{ContestantPlan, GenerationSettings, Lanes, Sampler, Terms};
use crate::seed::Seed;
use crate::tasks::TaskSetInfo;
use crate::testing::{Rows, ScriptedSession};

/// The rows of `plan`.
fn rows(plan: &DuelPlan, instances: u64) -> Rows {
    Rows::new(plan.tasks.rows, move |row| task(row, instances)).with_info(plan.tasks.clone())
}

/// Row `r` has `r % 14` assistant turns, is of instance `r % instances`, and
/// its prompts have `50 * r` tokens.
fn task(row: u64, instances: u64) -> TaskRow {
    let turn = |turn| [Message::new(Role::Assistant, format!("turn {turn}")), Message::new(Role::User, "u")];
    let mut messages = vec![Message::new(Role::User, "x".repeat(50 * row as usize))];
    messages.extend((0..row % 14).flat_map(turn));
    TaskRow { instance_id: format!("instance {}", row % instances), repo: "repo".into(), messages }
}

fn counting() -> Arc<dyn ModelSession> {
    let session = ScriptedSession::saying("king", "never");
    Arc::new(session.counting(|messages| Some(messages[0].content.len() as u32)))
}

fn plan(sampler: Sampler, seed: u64, rows: u64, samples: u32, prompt_limit: u32) -> DuelPlan {
    let digest = Digest::of("");
    let model = ModelInfo::new(digest, "None", 1 << 20).with_text(digest, digest, vec![]).with_config(digest);
    let backend = Identity { name: "none".into(), version: "1".into(), config: digest };
    let contestant = ContestantPlan { model, backend };
    let generation = GenerationSettings::default();
    DuelPlan {
        version: None,
        king: contestant.clone(),
        challenger: contestant,
        tasks: TaskSetInfo { manifest: digest, rows, unhashed: false },
        sampler,
        samples,
        looks: vec![samples],
        seed: Seed::from(seed),
        context_tokens: prompt_limit + generation.max_new_tokens,
        generation,
        lanes: Lanes::default(),
        judges: vec![],
        panel: PanelSettings::default(),
        rule: Rule::default(),
        rule_version: RuleVersion::NEWEST,
        terms: Terms::default(),
        previous: None,
        canaries: None,
        twins: None,
        admission: None,
        effect_prior: None,
        call_tries: None,
        behaviour: None,
    }
}

/// All row draws of `plan` over instances `instances`, and the error that ended
/// them, if one did.
async fn draw_all(plan: &DuelPlan, instances: u64) -> (Vec<RowDraw>, Vec<Sample>, Option<Error>) {
    let (mut drawer, king) = (Drawer::new(plan, Arc::new(rows(plan, instances))), counting());
    let (mut draws, mut samples) = (vec![], vec![]);
    loop {
        match drawer.next(&king, &CallContext::new()).await {
            Ok(Some((sample, its))) => {
                samples.push(sample);
                draws.extend(its);
            }
            Ok(None) => return (draws, samples, None),
            Err(error) => return (draws, samples, Some(error)),
        }
    }
}

fn replay(plan: &DuelPlan, draws: &[RowDraw]) -> Result<u32> {
    let mut replay = Replay::new(plan);
    draws.iter().try_for_each(|draw| replay.check(draw))?;
    Ok(replay.samples())
}

#[tokio::test]
async fn albedo_py_draws_what_the_python_system_draws() {
    use DrawOutcome::{NoTurn, Repeated, Sample};
    // Computed with Python 3: `rng = random.Random(5)`, 24 samples of 30 rows.
    let expected = [
        (18, Some(2), Sample),
        (22, Some(7), Sample),
        (23, Some(2), Sample),
        (28, None, NoTurn),
        (22, Some(0), Sample),
        (27, Some(1), Sample),
        (0, None, NoTurn),
        (13, Some(9), Sample),
        (28, None, NoTurn),
        (19, Some(4), Sample),
        (27, Some(6), Sample),
        (3, Some(0), Sample),
        (14, None, NoTurn),
        (7, Some(1), Sample),
        (16, Some(1), Sample),
        (17, Some(1), Sample),
        (0, None, NoTurn),
        (6, Some(3), Sample),
        (8, Some(6), Sample),
        (27, Some(2), Sample),
        (22, Some(0), Repeated),
        (4, Some(0), Sample),
        (23, Some(7), Sample),
        (4, Some(2), Sample),
        (18, Some(1), Sample),
        (3, Some(0), Repeated),
        (0, None, NoTurn),
        (26, Some(9), Sample),
        (6, Some(1), Sample),
        (6, Some(5), Sample),
        (29, Some(0), Sample),
        (26, Some(1), Sample),
    ];
    let (draws, samples, error) = draw_all(&plan(Sampler::AlbedoPy, 5, 30, 24, 10_000), 30).await;
    assert!(error.is_none(), "{error:?}");
    let drawn: Vec<_> = draws.iter().map(|draw| (draw.row, draw.turn, draw.outcome)).collect();
    assert_eq!(drawn, expected);
    assert_eq!(&*samples[1].reference, "turn 7");
    assert_eq!(samples[1].messages.len(), 15);
}

#[tokio::test]
async fn albedo_py_draws_on_past_a_prompt_that_is_too_long() {
    let whole = draw_all(&plan(Sampler::AlbedoPy, 5, 30, 20, 10_000), 30).await.1;
    let (draws, short, _) = draw_all(&plan(Sampler::AlbedoPy, 5, 30, 20, 25 * 50), 30).await;
    assert!(draws.iter().any(|draw| draw.outcome == DrawOutcome::TooLong));
    let kept = |samples: &[Sample]| {
        let fits = |sample: &&Sample| sample.messages[0].content.len() <= 25 * 50;
        samples.iter().filter(fits).map(|sample| sample.messages.clone()).collect::<Vec<_>>()
    };
    assert_eq!(short.len(), 20);
    assert!(kept(&short).starts_with(&kept(&whole)));
}

#[tokio::test]
async fn albedo_py_ends_after_four_rows_a_sample() {
    let plan = plan(Sampler::AlbedoPy, 0, 4, 20, 10_000);
    let (_, samples, error) = draw_all(&plan, 4).await;
    let error = error.expect("six turns cannot give twenty samples");
    assert_eq!((samples.len(), error.fault()), (6, Fault::Operator));
    assert!(error.to_string().contains("too few usable instances"), "{error}");
    let mut walk = Walk::new(&plan);
    assert_eq!(std::iter::from_fn(|| walk.row()).count(), 80);
}

#[tokio::test]
async fn a_cancelled_draw_reads_nothing() {
    let plan = plan(Sampler::RowDraw, 3, 30, 1, 0);
    let tasks = Arc::new(rows(&plan, 30));
    let mut drawer = Drawer::new(&plan, Arc::<Rows>::clone(&tasks));
    let cx = CallContext::new();
    cx.cancel();
    assert_eq!(drawer.next(&counting(), &cx).await.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    assert_eq!(tasks.read(), 0);
}

#[test]
fn facts_are_held_against_the_data() {
    let draw = RowDraw {
        row: 17,
        instance_id: "instance 7".into(),
        turns: 3,
        turn: Some(1),
        prompt_tokens: None,
        outcome: DrawOutcome::Sample,
    };
    assert!(draw.check(&task(17, 10)).is_ok());
    let error = draw.check(&task(17, 9)).expect_err("another instance").to_string();
    assert!(error.contains("recorded instance: instance 7, instance: instance 8"), "{error}");
    assert!(RowDraw { turns: 4, ..draw }.check(&task(17, 10)).is_err());
    assert_eq!(Sample::new(0, task(17, 10), 3), None);
}

#[test]
fn a_conversation_that_the_assistant_opens_has_one_turn_less() {
    let messages =
        [Role::Assistant, Role::User, Role::Assistant].map(|role| Message::new(role, role.as_str()));
    let task = TaskRow { instance_id: "i".into(), repo: "r".into(), messages: messages.to_vec() };
    assert_eq!(turns(&task), [2]);
    assert_eq!(Sample::new(0, task, 0).expect("a turn").messages.len(), 2);
}

fn samplers() -> impl Strategy<Value = Sampler> {
    prop_oneof![Just(Sampler::RowDraw), Just(Sampler::AlbedoPy)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_replay_takes_what_was_drawn_and_no_change_of_it(
        (sampler, seed, place) in (samplers(), any::<u64>(), any::<prop::sample::Index>()),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // Rows 21 to 29 are too long; about a third of the draws is discarded.
        let plan = plan(sampler, seed, 30, 12, 20 * 50);
        let (draws, samples, error) = runtime.block_on(draw_all(&plan, 25));
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(replay(&plan, &draws).map_err(|error| error.to_string()), Ok(12));
        prop_assert_eq!(samples.len(), 12);

        let place = place.index(draws.len());
        let draw = &draws[place];
        let change = |change: &dyn Fn(&mut RowDraw)| {
            let mut draws = draws.clone();
            change(&mut draws[place]);
            draws
        };
        let mut changes = vec![
            change(&|draw| draw.row = (draw.row + 1) % 30),
            change(&|draw| draw.turn = draw.turn.map_or(Some(0), |turn| Some(turn + 1))),
            change(&|draw| draw.turn = draw.turn.map_or(Some(9), |_| None)),
        ];
        for outcome in
            [DrawOutcome::Sample, DrawOutcome::NoTurn, DrawOutcome::Repeated, DrawOutcome::TooLong]
        {
            if outcome != draw.outcome {
                changes.push(change(&|draw| draw.outcome = outcome));
            }
        }
        match draw.outcome {
            DrawOutcome::Sample => changes.push(change(&|draw| draw.prompt_tokens = Some(20 * 50 + 1))),
            DrawOutcome::TooLong => changes.push(change(&|draw| draw.prompt_tokens = Some(20 * 50))),
            DrawOutcome::NoTurn | DrawOutcome::Repeated => {
                changes.push(change(&|draw| draw.prompt_tokens = Some(1)));
            }
        }
        let earlier = draws[..place].iter().find(|draw| draw.outcome == DrawOutcome::Sample);
        if let (Sampler::RowDraw, DrawOutcome::Sample, Some(earlier)) = (sampler, draw.outcome, earlier) {
            changes.push(change(&|draw| draw.instance_id.clone_from(&earlier.instance_id)));
        }
        if (sampler, draw.outcome) == (Sampler::RowDraw, DrawOutcome::Repeated) {
            changes.push(change(&|draw| draw.instance_id.push('x')));
        }
        for changed in changes {
            prop_assert!(replay(&plan, &changed).is_err(), "{:?} became {:?}", draw, changed[place]);
        }
        let renamed = RowDraw { instance_id: format!("{}x", draw.instance_id), ..draw.clone() };
        let longer = RowDraw { turns: draw.turns + 1, ..draw.clone() };
        prop_assert!(draw.check(&task(draw.row, 25)).is_ok());
        prop_assert!(renamed.check(&task(draw.row, 25)).is_err());
        prop_assert!(longer.check(&task(draw.row, 25)).is_err());
        let more = [draws.clone(), draws[..1].to_vec()].concat();
        prop_assert!(replay(&plan, &more).is_err());
        let other = DuelPlan { seed: Seed::from(seed.wrapping_add(1)), ..plan };
        prop_assert!(replay(&other, &draws).is_err());
    }
}
