use std::path::Path;

use itertools::Itertools;
use ndarray::Array2;

use super::*;
use crate::dimension::{MeasureSettings, Representation, Scale, TwoNn, measure, standard_error};
use crate::onnx::Role;
use crate::progress::Silent;

struct Lcg(u64);

impl Lcg {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A cube of the given dimension, bent into more columns.
    fn manifold(&mut self, rows: usize, dimension: usize) -> Array2<f32> {
        let cube = Array2::from_shape_simple_fn((rows, dimension), || self.uniform());
        Array2::from_shape_fn((rows, dimension + 3), |(row, column)| {
            let value = cube[[row, column % dimension]];
            if column < dimension { value as f32 } else { (0.3 * value * value) as f32 }
        })
    }
}

fn module(block: usize, role: Role) -> ModuleToAdapt {
    let name = format!("encoder.layer.{}.{}", block - 1, role.as_str());
    ModuleToAdapt {
        checkpoint_tensor: Some(format!("{name}.weight")),
        node: format!("/{name}/MatMul"),
        weight: format!("weight_{block}_{}", role.as_str()),
        copies: Vec::new(),
        module: name,
        role,
        in_features: 8,
        out_features: 8,
    }
}

fn blocks(count: usize) -> Vec<BlockToAdapt> {
    let roles = [Role::Query, Role::Value, Role::FeedForward];
    let block = |block| BlockToAdapt { block, modules: roles.map(|role| module(block, role)).to_vec() };
    (1..=count).map(block).collect()
}

fn names(layers: usize) -> Vec<String> {
    (0..layers).map(|index| format!("hidden_states.{index}")).collect()
}

fn request<'a>(hidden_states: &'a [String], blocks: &'a [BlockToAdapt], settings: RankSettings) -> PlanRequest<'a> {
    PlanRequest {
        model: ModelProvenance {
            onnx: "model.onnx".into(),
            onnx_sha256: "aa11".into(),
            other_files: vec![("model.safetensors".into(), "bb22".into())],
            producer: "pytorch 2.11".into(),
            opset: 17,
            last_state_after_final_norm: None,
        },
        data: DataProvenance {
            file: "train.tsv".into(),
            sha256: "cc33".into(),
            tokenizer_sha256: "dd44".into(),
            task: Some("cola".into()),
            columns: vec!["sentence".into()],
            rows: 310,
            distinct_rows: 300,
            maximum_length: 128,
            sampling: None,
        },
        extraction: ExtractionProvenance {
            pooling: "mean".into(),
            onnxruntime: "1.30.0".into(),
            provider: "CPUExecutionProvider".into(),
            equal_lengths: false,
        },
        hidden_states,
        blocks,
        representation: Representation::default(),
        estimator: TwoNn::default(),
        settings,
        text: None,
    }
}

fn plan(layers: &[Array2<f32>], settings: RankSettings) -> Result<Plan, RankError> {
    let (names, blocks) = (names(layers.len()), blocks(layers.len() - 1));
    make_plan(&mut |index| Ok(layers[index].clone().into()), &request(&names, &blocks, settings), &Silent)
}

/// Hidden state 0 is constant, then the dimension grows and shrinks.
fn layers() -> Vec<Array2<f32>> {
    let mut generator = Lcg(7);
    let mut layers = vec![Array2::from_elem((300, 5), 0.5f32)];
    layers.extend([2, 6, 3].map(|dimension| generator.manifold(300, dimension)));
    layers
}

fn ranks(plan: &Plan) -> Vec<usize> {
    plan.blocks.iter().map(|block| block.rank).collect()
}

#[test]
fn a_plan_holds_dimensions_ranks_and_where_they_come_from() {
    let settings = RankSettings { subsamples: 20, ..RankSettings::default() };
    let mut plan = plan(&layers(), settings).unwrap();
    round(&mut plan);
    plan.gelora_version = "0.0.0".into();
    insta::assert_json_snapshot!(plan);
}

/// Rounds to six digits: enough to show a change, and equal on every processor.
fn round(plan: &mut Plan) {
    let round = |value: &mut f64| *value = (*value * 1e6).round() / 1e6;
    for state in &mut plan.hidden_states {
        state.dimension.iter_mut().chain(&mut state.standard_error).for_each(round);
        state.interval.iter_mut().for_each(|(low, high)| [low, high].into_iter().for_each(round));
        state.decimation.iter_mut().for_each(|(_, dimension)| round(dimension));
        state.decimation_spread.iter_mut().flatten().for_each(round);
        for at in &mut state.dimension_by_scale {
            [&mut at.dimension, &mut at.standard_error, &mut at.distance].into_iter().for_each(round);
        }
        state.fit.truncate(3);
        state.fit.iter_mut().for_each(|(x, y)| [x, y].into_iter().for_each(round));
        for near in state.near_duplicates.iter_mut() {
            round(&mut near.dimension_with);
            near.dimension_without.iter_mut().for_each(round);
            near.examples.iter_mut().for_each(|example| round(&mut example.distance));
        }
    }
    plan.scale.change.iter_mut().for_each(round);
    for block in &mut plan.blocks {
        block.difference.iter_mut().for_each(round);
        block.difference_interval.iter_mut().for_each(|(low, high)| [low, high].into_iter().for_each(round));
    }
}

#[test]
fn the_same_request_gives_the_same_plan_and_the_file_gives_it_back() {
    let settings = RankSettings { subsamples: 8, ..RankSettings::default() };
    let first = plan(&layers(), settings.clone()).unwrap();
    let path = tempfile::tempdir().unwrap().path().join("plan.json");
    first.write(&path).unwrap();
    assert_eq!(Plan::read(&path).unwrap(), first);
    let again = plan(&layers(), settings).unwrap();
    assert_eq!(serde_json::to_string(&first).unwrap(), serde_json::to_string(&again).unwrap());
}

#[test]
fn settings_shape_the_ranks() {
    let ruled = |change: &dyn Fn(&mut RankSettings)| {
        let mut settings = RankSettings { subsamples: 0, ..RankSettings::default() };
        change(&mut settings);
        ranks(&plan(&layers(), settings).unwrap())
    };
    let differences: Vec<f64> = plan(&layers(), RankSettings { subsamples: 0, ..RankSettings::default() })
        .unwrap()
        .blocks
        .iter()
        .map(|block| block.difference.unwrap_or(f64::NAN))
        .collect();
    let growth = differences[1];
    assert!(differences[0].is_nan() && growth > 2.5 && differences[2] < 0.0, "{differences:?}");
    assert_eq!(ruled(&|_| {}), [1, growth.ceil() as usize + 1, 1]);
    assert_eq!(ruled(&|s| s.rounding = Rounding::Floor), [1, growth.floor() as usize + 1, 1]);
    assert_eq!(ruled(&|s| s.offset = 3), [3, growth.ceil() as usize + 3, 3]);
    assert_eq!(ruled(&|s| s.minimum = 2), [2, growth.ceil() as usize + 1, 2]);
    assert_eq!(ruled(&|s| s.maximum = Some(2)), [1, 2, 1]);
    assert_eq!(ruled(&|s| (s.offset, s.minimum) = (0, 0)), [0, growth.ceil() as usize, 0]);
    // Two modules of 8 + 8 in each of three blocks: 32 parameters per rank and block.
    assert_eq!(ruled(&|s| s.budget = Some(4 * 32)), [1, 2, 1]);
}

#[test]
fn what_no_plan_can_meet_is_told_by_the_blocks_alone() {
    let blocks = blocks(3);
    let check = |change: &dyn Fn(&mut RankSettings)| {
        let mut settings = RankSettings::default();
        change(&mut settings);
        check_blocks(&blocks, &settings).map_err(|error| error.to_string())
    };
    // 32 parameters per rank and block, as above.
    check(&|s| s.budget = Some(3 * 32)).unwrap();
    let error = check(&|s| s.budget = Some(3 * 32 - 1)).unwrap_err();
    assert!(error.starts_with("the smallest ranks need 96 parameters, the budget is 95"), "{error}");
    let error = check(&|s| (s.minimum, s.budget) = (2, Some(3 * 32))).unwrap_err();
    assert!(error.starts_with("the smallest ranks need 192 parameters"), "{error}");
    check(&|s| (s.offset, s.minimum, s.budget) = (0, 0, Some(1))).unwrap();
    // No rank exceeds the width of the weights.
    let error = check(&|s| (s.minimum, s.budget) = (100, Some(1))).unwrap_err();
    assert!(error.starts_with("the smallest ranks need 768 parameters"), "{error}");
    let error = check(&|s| s.projections = vec![Role::Other]).unwrap_err();
    assert!(error.starts_with("no weight of the model is one of other"), "{error}");
}

#[test]
fn alpha_follows_the_rank_and_rank_zero_leaves_modules_out() {
    let settings = RankSettings { offset: 0, minimum: 0, scaling: 2.0, subsamples: 0, ..RankSettings::default() };
    let plan = plan(&layers(), settings).unwrap();
    assert_eq!((plan.blocks[0].rank, plan.blocks[0].modules.len()), (0, 0));
    let block = &plan.blocks[1];
    assert_eq!(block.alpha, 2.0 * block.rank as f64);
    assert!(block.modules.iter().all(|module| module.rank == block.rank && module.alpha == block.alpha));
    assert_eq!(plan.adapter_parameters, 32 * block.rank as u64);
}

#[test]
fn a_shared_weight_gets_one_adapter_with_the_largest_rank() {
    let layers = layers();
    let (names, mut blocks) = (names(4), blocks(3));
    for block in &mut blocks {
        block.modules = vec![module(1, Role::Query)];
    }
    let make = |budget| {
        let settings = RankSettings { subsamples: 0, budget, ..RankSettings::default() };
        make_plan(&mut |index| Ok(layers[index].clone().into()), &request(&names, &blocks, settings), &Silent)
    };
    let plan = make(None).unwrap();
    let modules: Vec<usize> = plan.blocks.iter().map(|block| block.modules.len()).collect();
    assert_eq!(modules, [1, 0, 0]);
    assert_eq!(plan.blocks[0].modules[0].rank, plan.blocks[1].rank);
    let plan = make(Some(2 * 16)).unwrap();
    assert_eq!((plan.blocks[0].modules[0].rank, plan.adapter_parameters), (2, 32));
    assert_eq!(ranks(&plan), [2, 2, 1]);
}

#[test]
fn the_budget_lowers_the_largest_rank_that_loses_least() {
    let share = |rank, bound| budget::Share { rank, cost: 10, bound };
    let lowered = |limit| {
        let mut shares = [share(4, 3.9), share(4, 3.1), share(2, 1.2), share(2, 1.2)];
        budget::fit(&mut shares, limit, 1).map(|()| shares.map(|share| share.rank))
    };
    assert_eq!(lowered(120).unwrap(), [4, 4, 2, 2]);
    assert_eq!(lowered(119).unwrap(), [4, 3, 2, 2]);
    assert_eq!(lowered(100).unwrap(), [3, 3, 2, 2]);
    assert_eq!(lowered(80).unwrap(), [2, 2, 2, 2]);
    assert_eq!(lowered(70).unwrap(), [2, 2, 2, 1]);
    let error = lowered(39).unwrap_err().to_string();
    insta::assert_snapshot!(error, @"the smallest ranks need 40 parameters, the budget is 39; raise `budget`, lower `minimum_rank` or adapt fewer `projections`");
}

/// The standard error from halves of one sample against the spread over independent samples, for one layer and for the
/// difference of two layers that share their rows. `examples/subsampling_coverage.rs` does this at full size.
#[test]
fn standard_errors_are_the_spread_over_independent_samples() {
    let scale = Some(Scale::NEAREST);
    let settings = MeasureSettings { subsamples: 30, scale, ..MeasureSettings::default() };
    let (mut dimensions, mut errors, mut differences, mut difference_errors) = (vec![], vec![], vec![], vec![]);
    for sample in 0..40 {
        let layer = Lcg(100 + sample).manifold(240, 4);
        let next = layer.mapv(|v| v * v + v);
        let [a, b] = [layer, next].map(|layer| measure(layer.view(), &settings, &Silent).unwrap());
        let [a, b] = [&a.readings[0], &b.readings[0]];
        let deviations: Vec<f64> = a.deviations.iter().zip_eq(&b.deviations).map(|(a, b)| b - a).collect();
        dimensions.push(a.dimension);
        errors.push(standard_error(&a.deviations).unwrap());
        differences.push(b.dimension - a.dimension);
        difference_errors.push(standard_error(&deviations).unwrap());
    }
    for (values, errors) in [(&dimensions, errors), (&differences, difference_errors)] {
        let spread = ndarray::aview1(values).std(1.0);
        let ratio = ndarray::aview1(&errors).mean().unwrap() / spread;
        assert!((0.7..1.4).contains(&ratio), "{ratio}");
    }
    // What layers share cancels: the difference has a smaller error than its parts.
    assert!(ndarray::aview1(&differences).std(1.0) < 0.9 * ndarray::aview1(&dimensions).std(1.0));
}

#[test]
fn layers_that_do_not_fit_are_errors() {
    let error = |layers: &[Array2<f32>], settings| plan(layers, settings).unwrap_err().to_string();
    let quick = RankSettings { subsamples: 0, ..RankSettings::default() };
    let mut generator = Lcg(1);
    let good = generator.manifold(200, 2);
    insta::assert_snapshot!(error(&[good.clone(), generator.manifold(199, 2)], quick.clone()), @"hidden state 1 has 199 rows, hidden state 0 has 200; extract the activations again");
    insta::assert_snapshot!(error(&[generator.manifold(30, 2), generator.manifold(30, 2)], quick.clone()), @"hidden state 0: 30 distinct rows are left of 30 (0 with NaN or infinity, 0 repeated), but an estimate needs 50; use more data, a larger `max_length` if texts were cut, or another pooling if the rows should not be equal");
    let mut spoilt = good.clone();
    spoilt.rows_mut().into_iter().take(5).for_each(|mut row| row[0] = f32::NAN);
    insta::assert_snapshot!(error(&[good.clone(), spoilt], quick.clone()), @"hidden state 1 has NaN or infinity in 5 of 200 rows; export the model in float32 and check the weights, or drop the rows that cause it");
    let projections = vec![Role::Key];
    insta::assert_snapshot!(error(&[good.clone(), good.clone()], RankSettings { projections, ..quick.clone() }), @"no weight of the model is one of key; it has query, value, feed-forward: choose among these with `projections`");
    insta::assert_snapshot!(error(&[good.clone(), good.clone()], RankSettings { minimum: 3, maximum: Some(2), ..quick.clone() }), @"the maximum rank is 2 with a minimum of 3; give at least the minimum");
    insta::assert_snapshot!(error(&[good.clone(), good.clone()], RankSettings { scaling: 0.0, ..quick.clone() }), @"the scaling alpha/rank is 0; give a number from 0.000001 to 1000000");
    let few = blocks(3);
    let names = names(3);
    let error = make_plan(&mut |_| Ok(good.clone().into()), &request(&names, &few, quick), &Silent).unwrap_err();
    insta::assert_snapshot!(error, @"3 hidden states need 2 blocks, but there are 3; export all hidden states");
}

#[test]
fn a_layer_with_few_distinct_rows_is_degenerate_where_others_are_not() {
    let mut generator = Lcg(2);
    let positions = Array2::from_shape_fn((200, 4), |(row, column)| ((row % 30) * (column + 1)) as f32);
    let quick = RankSettings { subsamples: 0, ..RankSettings::default() };
    let plan = plan(&[positions, generator.manifold(200, 2)], quick).unwrap();
    assert_eq!(plan.hidden_states[0].degenerate.as_deref(), Some("only 30 of 200 rows are distinct"));
    assert_eq!(ranks(&plan), [1]);
    assert!(plan.blocks[0].reason.starts_with("hidden state 0 has no dimension, so the difference is undefined"));
}

#[test]
fn other_versions_and_other_models_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.json");
    let shown = |error: RankError| error.to_string().replace(folder.path().to_str().unwrap(), "FOLDER");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        shown(Plan::read(&path).unwrap_err())
    };
    insta::assert_snapshot!(read(r#"{"format_version": 99}"#), @"FOLDER/plan.json has plan format 99, this gelora reads formats 1 to 2; update gelora");
    insta::assert_snapshot!(read(r#"{"format_version": 0}"#), @"FOLDER/plan.json has plan format 0, this gelora reads formats 1 to 2; make the plan again");
    insta::assert_snapshot!(read(r#"{"format_version": 1}"#), @"FOLDER/plan.json is not a plan (missing field `gelora_version` at line 1 column 21); make it with `gelora plan`");
    insta::assert_snapshot!(read("{}"), @"FOLDER/plan.json is not a plan (it has no format_version); make it with `gelora plan`");
    insta::assert_snapshot!(read("no json"), @"FOLDER/plan.json is not a plan (expected ident at line 1 column 2); make it with `gelora plan`");
    insta::assert_snapshot!(shown(Plan::read(&folder.path().join("absent.json")).unwrap_err()), @"cannot read FOLDER/absent.json: No such file or directory (os error 2); check the path");
    let plan = plan(&layers(), RankSettings { subsamples: 0, ..RankSettings::default() }).unwrap();
    plan.verify_model("aa11").unwrap();
    insta::assert_snapshot!(plan.verify_model("ee55").unwrap_err(), @"this plan was made for another model: its SHA-256 is aa11, that of the model ee55; plan again for this model, or give the model of the plan (model.onnx)");
}

/// A plan written by the first version must stay readable.
#[test]
fn plans_of_format_1_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1.json");
    let plan = Plan::read(&path).unwrap();
    assert_eq!(plan.format_version, 1);
    assert_eq!(ranks(&plan), [1, 4, 1]);
}

/// Format 1 called the decimation `scale` and the dimension at every scale `neighbour_scale`.
#[test]
fn the_scales_of_format_1_have_their_own_names_now() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/plan_1_scales.json");
    let plan = Plan::read(&path).unwrap();
    assert_eq!((plan.format_version, plan.scale.neighbours), (1, (1, 2)));
    let stored: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    plan.write(&folder.path().join("plan.json")).unwrap();
    let written = std::fs::read_to_string(folder.path().join("plan.json")).unwrap();
    let written: serde_json::Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["format_version"], FORMAT_VERSION);
    let states = |plan: &serde_json::Value| plan["hidden_states"].as_array().unwrap().clone();
    for (old, new) in states(&stored).iter().zip_eq(&states(&written)) {
        assert!(old["scale"][0][1].is_number());
        assert_eq!(old["scale"], new["decimation"]);
        assert_eq!(old["scale_spread"], new["decimation_spread"]);
        assert_eq!(old["neighbour_scale"], new["dimension_by_scale"]);
        assert_eq!((&new["scale"], &new["neighbour_scale"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    }
    let again = Plan::read(&folder.path().join("plan.json")).unwrap();
    assert_eq!(Plan { format_version: 1, ..again }, plan);
}

/// Half of the rows nearly repeat the other half: the nearest neighbours see pairs, farther ones the dimension.
fn layers_with_pairs() -> Vec<Array2<f32>> {
    let mut generator = Lcg(11);
    [3, 6]
        .into_iter()
        .map(|dimension| {
            let half = generator.manifold(400, dimension);
            let noise = generator.manifold(400, dimension) * 1e-3;
            ndarray::concatenate(ndarray::Axis(0), &[half.view(), (&half + &noise).view()]).unwrap()
        })
        .collect()
}

#[test]
fn the_scale_is_where_the_dimension_is_level() {
    let quick = RankSettings { subsamples: 8, ..RankSettings::default() };
    let level = plan(&layers_with_pairs(), quick.clone()).unwrap();
    assert_eq!((level.scale.neighbours, level.scale.chosen), ((2, 4), ScaleChoice::Plateau));
    let given = plan(&layers_with_pairs(), RankSettings { scale: Some(Scale::NEAREST), ..quick }).unwrap();
    assert_eq!((given.scale.neighbours, given.scale.chosen), ((1, 2), ScaleChoice::Given));
    for (state, truth) in level.hidden_states.iter().zip_eq([3.0, 6.0]) {
        let found = state.dimension.unwrap() / truth;
        // Every point is duplicated, so the third neighbour is as near as the second: a little low.
        assert!((0.7..1.1).contains(&found), "{found} of {truth}");
        assert!(state.dimension_by_scale.iter().any(|at| Some(at.dimension) == state.dimension));
        assert_eq!(state.decimation.len(), state.decimation_spread.len());
    }
    for state in &given.hidden_states {
        assert!(state.dimension.unwrap() < 1.5, "{:?}", state.dimension);
        assert_eq!(state.dimension, Some(state.dimension_by_scale[0].dimension));
    }
    insta::assert_snapshot!(given.warnings[1], @"the dimension depends on the scale in 2 of 2 hidden states (hidden state 1: 0.1 at the neighbours 1:2, 5.0 at 2:4): the ranks are those of the scale that was asked for");
}

#[test]
fn a_layer_that_is_not_level_where_the_others_are_is_named() {
    let mut generator = Lcg(21);
    let mut layers: Vec<_> = [4, 5, 4].map(|dimension| generator.manifold(800, dimension)).to_vec();
    layers.push(layers_with_pairs().remove(1));
    let plan = plan(&layers, RankSettings { subsamples: 4, ..RankSettings::default() }).unwrap();
    assert_eq!((plan.scale.neighbours, plan.scale.chosen), ((1, 2), ScaleChoice::Plateau));
    assert!(
        plan.warnings
            .iter()
            .any(|warning| warning.starts_with("hidden state 3 is not level at the scale of the others")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn near_duplicates_are_told_by_their_effect_and_shown() {
    let layers = layers_with_pairs();
    let (names, blocks) = (names(2), blocks(1));
    let mut request = request(&names, &blocks, RankSettings { subsamples: 4, ..RankSettings::default() });
    let text = |row: usize| Some(format!("row {row}"));
    request.text = Some(&text);
    let plan = make_plan(&mut |index| Ok(layers[index].clone().into()), &request, &Silent).unwrap();
    for (state, truth) in plan.hidden_states.iter().zip_eq([3.0, 6.0]) {
        let near = state.near_duplicates.as_ref().unwrap();
        assert!(near.rows > 700, "{}", near.rows);
        assert!((near.expected - 0.8).abs() < 1e-9);
        assert!((0.75..1.2).contains(&(near.dimension_without.unwrap() / truth)), "{:?}", near.dimension_without);
        assert_eq!(near.examples.len(), 3);
        for example in &near.examples {
            assert_eq!(example.rows.0 + 400, example.rows.1);
            assert_eq!(example.texts.as_ref().unwrap().1, format!("row {}", example.rows.1));
        }
    }
    let warning = plan.warnings.iter().find(|warning| warning.contains("nearer to another row")).unwrap();
    assert!(warning.contains("for example “row "), "{warning}");
    // Points in general position have hardly any.
    let plan = self::plan(&self::layers(), RankSettings { subsamples: 4, ..RankSettings::default() }).unwrap();
    assert!(plan.hidden_states[1].near_duplicates.as_ref().unwrap().rows <= 3);
}

#[test]
fn a_rise_that_is_not_probable_enough_gets_the_smallest_rank() {
    let mut generator = Lcg(5);
    let layers = [5, 5, 9].map(|dimension| generator.manifold(400, dimension));
    let scale = Some(Scale::NEAREST);
    let settings = RankSettings { subsamples: 60, scale, ..RankSettings::default() };
    let usual = plan(&layers, settings.clone()).unwrap();
    let growth: Vec<f64> = usual.blocks.iter().map(|block| block.growth_probability.unwrap()).collect();
    // Two samples of the same cube differ by chance.
    assert!((0.05..0.95).contains(&growth[0]) && growth[1] > 0.99, "{growth:?}");
    let sure = plan(&layers, RankSettings { confidence: Some(0.95), minimum: 1, ..settings.clone() }).unwrap();
    assert_eq!((sure.blocks[0].rank, sure.blocks[1].rank), (1, usual.blocks[1].rank));
    if usual.blocks[0].difference.unwrap() > 0.0 {
        assert!(sure.blocks[0].reason.ends_with("95 % were asked for: smallest rank 1"), "{}", sure.blocks[0].reason);
    }
    let error = |settings| plan(&layers, settings).unwrap_err().to_string();
    let confidence = Some(0.3);
    insta::assert_snapshot!(error(RankSettings { confidence, ..settings.clone() }), @"the confidence is 0.3; give a number from 0.5 to below 1");
    let confidence = Some(0.9);
    insta::assert_snapshot!(error(RankSettings { confidence, subsamples: 0, ..settings }), @"the confidence is 0.9 without subsamples; give subsamples: they tell how probable a rise is");
}

#[test]
fn examples_are_shown_from_where_they_differ() {
    let told = |first: &str, second: &str| told_apart(first, second, 30);
    assert_eq!(told("short", "shorter"), ("short".into(), "shorter".into()));
    let (first, second) = told(
        "The body was found in the park on Monday morning.",
        "The body was found in the park on Tuesday night, they said.",
    );
    assert_eq!((first.as_str(), second.as_str()), ("…e park on Monday morning.", "…e park on Tuesday night, they…"));
    assert_eq!(told("a\n b   c", "x"), ("a b c".into(), "x".into()));
    assert_eq!(told("ééééééééééééééééééééééééééééééééééé", "x").0.chars().count(), 31);
}
