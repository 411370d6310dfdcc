//! The output as snapshots, and the promises of the report: one file, no network, nothing unescaped.

use crate::dimension::ScaleEstimate;
use crate::rank::{
    BlockRank, DataProvenance, ExtractionProvenance, HiddenStateDimension, ModelProvenance, NearDuplicateExample,
    NearDuplicateRows, Plan, PlanScale, PlannedModule, RankProbability, ScaleChoice,
};

use super::*;

/// Six blocks with typical values of CoLA for a small encoder; the first hidden state is degenerate on request.
fn plan(degenerate: bool) -> Plan {
    let dimensions = [2.41, 2.70, 3.02, 3.11, 3.04, 2.72, 2.18];
    let ranks = [2, 2, 2, 1, 1, 1];
    Plan {
        format_version: 1,
        gelora_version: "0.1.0".into(),
        model: ModelProvenance {
            onnx: "models/minilm-cola/model.onnx".into(),
            onnx_sha256: "9f2c".repeat(16),
            other_files: vec![("model.safetensors".into(), "03ab".repeat(16))],
            producer: "pytorch 2.11.0".into(),
            opset: 17,
            last_state_after_final_norm: Some(true),
        },
        data: DataProvenance {
            file: "data/cola/train.tsv".into(),
            sha256: "77e1".repeat(16),
            tokenizer_sha256: "be50".repeat(16),
            task: Some("cola".into()),
            columns: vec!["sentence".into()],
            rows: 8551,
            distinct_rows: 8529,
            maximum_length: 128,
            sampling: None,
        },
        extraction: ExtractionProvenance {
            pooling: "mean".into(),
            onnxruntime: "1.30.0".into(),
            provider: "CPUExecutionProvider".into(),
            equal_lengths: false,
        },
        scale: PlanScale { neighbours: (1, 2), chosen: ScaleChoice::Plateau, change: Some(0.043) },
        settings: serde_json::json!({
            "estimator": {"method": "two-nn linear", "discard": 0.1, "neighbours": "exact"},
            "rule": {"rounding": "ceil", "offset": 1, "minimum": 1, "maximum": null, "budget": null, "scaling": 32.0,
                     "projections": ["query", "key", "value", "output"]},
            "subsamples": 40, "seed": 0
        }),
        hidden_states: dimensions.iter().enumerate().map(|(index, d)| state(index, *d, degenerate && index == 0)).collect(),
        blocks: (1..=6).map(|index| block(index, dimensions[index] - dimensions[index - 1], ranks[index - 1], degenerate && index == 1)).collect(),
        adapter_parameters: 9 * 4 * 768,
        warnings: vec![
            "The dimension changes with the number of rows (2.2 with 8,529, 4.9 with 1,066): the ranks are those of this data set, not of the task.".into(),
            "Blocks 3 and 4 are not told apart by this data: <2 and 1> both come out often.".into(),
        ],
    }
}

fn state(index: usize, d: f64, degenerate: bool) -> HiddenStateDimension {
    HiddenStateDimension {
        index,
        tensor: format!("hidden_states.{index}"),
        width: 384,
        dimension: (!degenerate).then_some(d),
        interval: (!degenerate).then_some((d - 0.11 - 0.01 * index as f64, d + 0.12)),
        standard_error: (!degenerate).then_some(0.06),
        points: if degenerate { 0 } else { 8517 },
        duplicates: 12,
        non_finite: 0,
        degenerate: degenerate.then(|| "the same vector in every row, \"within\" float noise".into()),
        decimation: if degenerate {
            vec![]
        } else {
            vec![(8517, d), (4258, d * 1.3), (2129, d * 1.7), (1064, d * 2.1)]
        },
        decimation_spread: if degenerate { vec![] } else { vec![None, Some(0.1), Some(0.2), Some(0.3)] },
        dimension_by_scale: if degenerate { vec![] } else { dimension_by_scale(d) },
        near_duplicates: (!degenerate).then(|| NearDuplicateRows {
            rows: 812,
            expected: 8.5,
            dimension_with: d,
            dimension_without: Some(2.0 * d),
            examples: vec![NearDuplicateExample {
                rows: (17, 4711),
                distance: 0.08,
                texts: Some(("they drank the <pub> dry".into(), "they drank the pub.".into())),
            }],
        }),
        fit: if degenerate {
            vec![]
        } else {
            (1..=60).map(|i| (f64::from(i) / 20.0 / d, f64::from(i) / 20.0)).collect()
        },
    }
}

fn dimension_by_scale(d: f64) -> Vec<ScaleEstimate> {
    let at = |(place, factor): (usize, f64)| ScaleEstimate {
        neighbours: (1 << place, 2 << place),
        dimension: d * factor,
        standard_error: 0.02 * d,
        distance: 1.0 + 0.2 * place as f64,
        left_out: 0,
    };
    [1.0, 1.4, 2.2, 3.5, 3.9, 4.0].into_iter().enumerate().map(at).collect()
}

fn block(index: usize, difference: f64, rank: usize, degenerate: bool) -> BlockRank {
    let names = ["query", "key", "value", "output"];
    let probabilities = match index {
        1 | 2 => vec![(2, 1.0)],
        3 => vec![(2, 0.625), (1, 0.375)],
        4 => vec![(1, 0.7), (2, 0.275), (3, 0.025)],
        _ => vec![(1, 1.0)],
    };
    BlockRank {
        block: index,
        difference: (!degenerate).then_some(difference),
        difference_interval: (!degenerate).then_some((difference - 0.1, difference + 0.1)),
        growth_probability: (!degenerate).then_some(if difference > 0.0 { 0.97 } else { 0.04 }),
        rank: if degenerate { 1 } else { rank },
        alpha: 32.0 * rank as f64,
        rank_probabilities: if degenerate {
            vec![]
        } else {
            probabilities.into_iter().map(|(rank, probability)| RankProbability { rank, probability }).collect()
        },
        reason: if degenerate {
            "hidden state 0 has no dimension: the smallest rank".into()
        } else {
            format!("ceil(max({difference:.2}, 0)) + 1")
        },
        modules: names
            .iter()
            .map(|role| PlannedModule {
                module: format!("encoder.layer.{}.attention.{role}", index - 1),
                checkpoint_tensor: None,
                node: String::new(),
                weight: String::new(),
                copies: Vec::new(),
                role: (*role).into(),
                in_features: 384,
                out_features: 384,
                rank,
                alpha: 32.0 * rank as f64,
            })
            .collect(),
    }
}

#[test]
fn the_page_is_as_it_was_looked_at() {
    insta::assert_snapshot!(report_html(&plan(false)).unwrap());
}

#[test]
fn a_degenerate_layer_is_a_gap_and_not_a_number() {
    let html = report_html(&plan(true)).unwrap();
    assert!(html.contains("hidden state 0: no dimension"));
    assert!(!html.contains("NaN"));
    insta::assert_snapshot!(plan_table(&plan(true)));
}

#[test]
fn the_page_loads_nothing_and_escapes_everything() {
    let mut plan = plan(true);
    plan.model.onnx = "<script>alert(1)</script>.onnx".into();
    plan.hidden_states[2].degenerate = Some("<b>".into());
    let html = report_html(&plan).unwrap();
    assert!(
        !html.contains("<script") && !html.contains("<b>") && !html.contains("http://") && !html.contains("https://")
    );
    assert!(!html.contains("url(") && !html.contains("src=\"") && !html.contains("@import"));
}

#[test]
fn every_size_of_plan_can_be_drawn() {
    for blocks in [1, 2, 12, 48, 200] {
        let mut plan = plan(false);
        plan.hidden_states =
            (0..=blocks).map(|index| state(index, 8.0 + (index as f64 * 0.7).sin() * 4.0, index % 7 == 6)).collect();
        plan.blocks = (1..=blocks).map(|index| block(index, 0.3, 1 + index % 14, index % 7 == 6)).collect();
        let html = report_html(&plan).unwrap();
        assert!(!html.contains("NaN") && !html.contains("inf\""), "{blocks} blocks");
    }
}

#[test]
fn dimensions_csv_has_one_row_per_hidden_state() {
    insta::assert_snapshot!(dimensions_csv(&plan(true)));
}

#[test]
fn the_tables_are_as_they_were_looked_at() {
    insta::assert_snapshot!(plan_table(&plan(false)));
    let rows: Vec<DimensionRow> = plan(true).hidden_states.iter().map(DimensionRow::from).collect();
    insta::assert_snapshot!(dimension_table(&rows));
}

/// Writes pages for visual inspection: `GELORA_LOOK=/tmp cargo test --lib report -- --ignored`.
#[test]
#[ignore = "makes files to look at with a browser"]
fn pages_to_look_at() {
    let Some(folder) = std::env::var_os("GELORA_LOOK").map(std::path::PathBuf::from) else { return };
    write_report(&folder.join("small.html"), &plan(false)).unwrap();
    write_report(&folder.join("degenerate.html"), &plan(true)).unwrap();
    let mut large = plan(false);
    large.hidden_states = (0..=28).map(|index| state(index, 11.0 + (index as f64 * 0.35).sin() * 6.0, false)).collect();
    large.blocks = (1..=28).map(|index| block(index, 0.3, 1 + (index * 5) % 7, false)).collect();
    large.warnings.clear();
    write_report(&folder.join("large.html"), &large).unwrap();
}

/// The plan beside one from a quarter of its rows, whose last dimensions differ.
fn two_plans() -> (Plan, Plan) {
    let mut other = plan(false);
    other.data.task = Some("<b>".into());
    for state in &mut other.hidden_states[4..] {
        state.dimension = state.dimension.map(|d| d + 2.0);
    }
    other.blocks[3].difference = Some(1.93);
    other.blocks[3].difference_interval = Some((1.5, 2.3));
    other.blocks[3].rank = 3;
    other.scale = PlanScale { neighbours: (4, 8), chosen: ScaleChoice::LeastChange, change: Some(0.2) };
    (plan(false), other)
}

#[test]
fn plans_are_laid_side_by_side() {
    let (first, other) = two_plans();
    let plans = [Named { name: "cola", plan: &first }, Named { name: "<b>", plan: &other }];
    insta::assert_snapshot!(compare_table(&plans));
    let page = compare_html(&plans).unwrap();
    assert!(!page.contains("<b>") && page.contains("&lt;b&gt;"));
    assert!(!page.contains("<script") && !page.contains("src=") && !page.contains("url("), "the page loads something");
    assert!(page.contains("+1.93*"));
}

#[test]
fn plans_of_different_depth_can_be_compared() {
    let (first, mut other) = two_plans();
    other.hidden_states.truncate(3);
    other.blocks.truncate(2);
    let plans = [Named { name: "deep", plan: &first }, Named { name: "flat", plan: &other }];
    let said = compare_table(&plans);
    assert!(said.contains("they have different numbers of layers"), "{said}");
    compare_html(&plans).unwrap();
    let degenerate = plan(true);
    compare_html(&[Named { name: "a", plan: &degenerate }, Named { name: "b", plan: &degenerate }]).unwrap();
}
