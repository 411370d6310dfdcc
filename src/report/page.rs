//! `report.html`: one self-contained page about a plan.

use std::io::Write;
use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;
use serde_json::Value;

use crate::files::write_atomically;
use crate::rank::{BlockRank, HiddenStateDimension, Plan, told_apart};

use super::ReportError;
use super::chart::Frame;
use super::fit::Fits;
use super::number;
use super::profile::Profile;
use super::ranks::{Ranks, certainty, probabilities};
use super::scale::ScaleCurves;
use super::table::scale_in_words;

/// The rank that a plan is compared with: PEFT's default.
const UNIFORM_RANK: u64 = 8;

/// Maximum length of an example text, in characters.
const EXAMPLE_LETTERS: usize = 120;

/// The report as HTML without external resources: styles and figures are inline, and there is no script.
///
/// # Errors
/// When the template does not fit the values, which is a bug.
pub fn report_html(plan: &Plan) -> Result<String, ReportError> {
    let environment = environment()?;
    let page = minijinja::Value::from(minijinja::value::Serde(&Page::new(plan)));
    Ok(environment.get_template("report.html")?.render(page)?)
}

/// The templates of all pages.
pub(super) fn environment() -> Result<Environment<'static>, ReportError> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_template("report.html", include_str!("templates/report.html"))?;
    environment.add_template("compare.html", include_str!("templates/compare.html"))?;
    environment.add_template("head.html", include_str!("templates/head.html"))?;
    environment.add_template("figures.html", include_str!("templates/figures.html"))?;
    environment.add_template("style.css", include_str!("templates/style.css"))?;
    Ok(environment)
}

/// Writes [`report_html`] to a file.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(path: &Path, plan: &Plan) -> Result<(), ReportError> {
    let html = report_html(plan)?;
    Ok(write_atomically(path, |writer| writer.write_all(html.as_bytes()))?)
}

/// Everything the template needs, as the text that it shows.
#[derive(Debug, Serialize)]
struct Page {
    title: String,
    subtitle: Vec<String>,
    figures: Vec<Figure>,
    warnings: Vec<String>,
    profiles: [Profile; 2],
    ranks: [Ranks; 2],
    neighbours: Option<[ScaleCurves; 2]>,
    decimation: Option<[ScaleCurves; 2]>,
    fits: Option<[Fits; 2]>,
    scale: String,
    near: Vec<Near>,
    near_examples: Vec<(String, String)>,
    has_intervals: bool,
    /// Where the intervals come from, as text.
    halves: &'static str,
    has_probabilities: bool,
    budget: Budget,
    layers: Vec<Layer>,
    has_left_out: bool,
    modules: Vec<Module>,
    provenance: Vec<Group>,
    version: String,
}

/// Rows of a layer that nearly repeat others.
#[derive(Debug, Serialize)]
struct Near {
    layer: usize,
    rows: String,
    share: String,
    expected: String,
    with: String,
    without: String,
}

/// A number shown in large type.
#[derive(Debug, Serialize)]
struct Figure {
    name: &'static str,
    value: String,
    note: String,
}

#[derive(Debug, Serialize)]
struct Budget {
    planned: String,
    uniform: String,
    uniform_rank: u64,
    /// Widths of the bars in per cent.
    planned_width: f64,
    uniform_width: f64,
    words: String,
}

#[derive(Debug, Serialize)]
struct Layer {
    index: usize,
    dimension: String,
    interval: String,
    points: String,
    left_out: String,
    block: Option<Block>,
}

#[derive(Debug, Serialize)]
struct Block {
    difference: String,
    interval: String,
    rises: String,
    rank: usize,
    alpha: String,
    probabilities: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Module {
    module: String,
    role: String,
    shape: String,
    rank: usize,
}

#[derive(Debug, Serialize)]
struct Group {
    name: &'static str,
    entries: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    value: String,
    /// Whether the value is a hash or file name, shown in monospace.
    code: bool,
}

impl Page {
    fn new(plan: &Plan) -> Self {
        let mut subtitle = vec![plan.data.task.clone().unwrap_or_else(|| file_name(&plan.data.file))];
        subtitle.push(format!("{} distinct rows", number::thousands(plan.data.distinct_rows)));
        subtitle.push(format!("{} blocks", plan.blocks.len()));
        Self {
            title: model_name(&plan.model.onnx),
            subtitle,
            figures: headline(plan),
            warnings: plan.warnings.iter().map(|warning| sentence(warning)).collect(),
            profiles: [Frame::wide(300.0), Frame::narrow(250.0)].map(|frame| Profile::new(plan, frame)),
            ranks: [Frame::wide(230.0), Frame::narrow(210.0)].map(|frame| Ranks::new(plan, frame)),
            neighbours: both(|frame| ScaleCurves::neighbours(plan, frame), 280.0, 250.0),
            decimation: both(|frame| ScaleCurves::decimation(plan, frame), 280.0, 250.0),
            fits: Fits::new(plan, Frame::wide(250.0), 3)
                .and_then(|wide| Fits::new(plan, Frame::narrow(200.0), 2).map(|narrow| [wide, narrow])),
            scale: sentence(&scale_in_words(&plan.scale)),
            near: plan.hidden_states.iter().filter_map(near).collect(),
            near_examples: near_examples(plan),
            halves: match plan.data.sampling.as_ref().and_then(|sampling| sampling.mini_batch) {
                Some(_) => "the mini-batches",
                None => "subsamples of the rows",
            },
            has_intervals: plan.hidden_states.iter().any(|state| state.interval.is_some()),
            has_probabilities: plan.blocks.iter().any(|block| !block.rank_probabilities.is_empty()),
            budget: budget(plan),
            layers: plan.hidden_states.iter().map(|state| layer(plan, state.index)).collect(),
            has_left_out: plan.hidden_states.iter().any(|state| state.duplicates + state.non_finite > 0),
            modules: modules(plan),
            provenance: provenance(plan),
            version: plan.gelora_version.clone(),
        }
    }
}

/// A figure for wide and for narrow pages.
fn both<T>(figure: impl Fn(Frame) -> Option<T>, wide: f64, narrow: f64) -> Option<[T; 2]> {
    Some([figure(Frame::wide(wide))?, figure(Frame::narrow(narrow))?])
}

/// Near-duplicates of a layer, where there are more than chance explains.
fn near(state: &HiddenStateDimension) -> Option<Near> {
    let found = state.near_duplicates.as_ref().filter(|found| found.rows as f64 > 3.0 * found.expected + 3.0)?;
    Some(Near {
        layer: state.index,
        rows: number::thousands(found.rows),
        share: number::percent(found.rows as f64 / state.points.max(1) as f64),
        expected: format!("{:.0}", found.expected),
        with: number::dimension(found.dimension_with),
        without: found.dimension_without.map_or_else(|| "–".to_owned(), number::dimension),
    })
}

/// Texts that nearly repeat each other, in the layer with most of them.
fn near_examples(plan: &Plan) -> Vec<(String, String)> {
    let found = plan.hidden_states.iter().filter(|state| near(state).is_some());
    let found = found.filter_map(|state| state.near_duplicates.as_ref()).max_by_key(|found| found.rows);
    let texts = found.into_iter().flat_map(|found| &found.examples).filter_map(|example| example.texts.as_ref());
    texts.map(|(first, second)| told_apart(first, second, EXAMPLE_LETTERS)).collect()
}

/// A warning as a sentence: the terminal shows it after `warning:`, the page on its own.
pub(super) fn sentence(warning: &str) -> String {
    let mut letters = warning.chars();
    let first: String = letters.next().map(|letter| letter.to_uppercase().collect()).unwrap_or_default();
    let end = if warning.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

/// A short name: `minilm` for `models/minilm/model.onnx`, `bert` for `bert.onnx`.
pub(super) fn model_name(onnx: &str) -> String {
    let path = Path::new(onnx);
    let stem = path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let folder = path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    match (stem, folder) {
        (Some(stem), Some(folder)) if stem == "model" => folder,
        (Some(stem), _) => stem,
        (None, _) => onnx.to_owned(),
    }
}

pub(super) fn file_name(path: &str) -> String {
    Path::new(path).file_name().map_or_else(|| path.to_owned(), |name| name.to_string_lossy().into_owned())
}

fn headline(plan: &Plan) -> Vec<Figure> {
    let ranks: Vec<usize> = plan.blocks.iter().map(|block| block.rank).collect();
    let mean = ranks.iter().sum::<usize>() as f64 / ranks.len().max(1) as f64;
    let dimensions: Vec<f64> = plan.hidden_states.iter().filter_map(|state| state.dimension).collect();
    let (low, high) =
        dimensions.iter().fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(*value), high.max(*value)));
    let certain = plan.blocks.iter().filter(|block| certainty(block).is_some_and(|share| share >= 0.9)).count();
    let mut figures = vec![
        Figure {
            name: "Ranks",
            value: from_to(ranks.iter().min(), ranks.iter().max()),
            note: format!("{mean:.1} on average"),
        },
        Figure {
            name: "Intrinsic dimension",
            value: if dimensions.is_empty() {
                "–".into()
            } else {
                from_to(Some(&number::dimension(low)), Some(&number::dimension(high)))
            },
            note: format!("over {} hidden states", dimensions.len()),
        },
        Figure {
            name: "Parameters to train",
            value: number::short(plan.adapter_parameters),
            note: format!("{} of a uniform rank {UNIFORM_RANK}", share_of_uniform(plan)),
        },
    ];
    if plan.blocks.iter().any(|block| certainty(block).is_some()) {
        figures.push(Figure {
            name: "Certain ranks",
            value: format!("{certain} of {}", plan.blocks.len()),
            note: "came out in at least 90 % of the subsamples".into(),
        });
    }
    figures
}

fn from_to<T: PartialEq + std::fmt::Display>(low: Option<&T>, high: Option<&T>) -> String {
    match (low, high) {
        (Some(low), Some(high)) if low == high => low.to_string(),
        (Some(low), Some(high)) => format!("{low} to {high}"),
        _ => "–".to_owned(),
    }
}

/// Number of parameters that LoRA of one rank would train on the same weights: `r (in + out)` per weight.
fn uniform_parameters(plan: &Plan) -> u64 {
    let modules = plan.blocks.iter().flat_map(|block| &block.modules);
    modules.map(|module| UNIFORM_RANK * (module.in_features + module.out_features) as u64).sum()
}

fn share_of_uniform(plan: &Plan) -> String {
    number::percent_of(plan.adapter_parameters, uniform_parameters(plan))
}

fn budget(plan: &Plan) -> Budget {
    let (planned, uniform) = (plan.adapter_parameters, uniform_parameters(plan));
    let most = planned.max(uniform).max(1) as f64;
    let width = |parameters: u64| (1000.0 * parameters as f64 / most).round() / 10.0;
    Budget {
        planned: number::thousands(planned),
        uniform: number::thousands(uniform),
        uniform_rank: UNIFORM_RANK,
        planned_width: width(planned),
        uniform_width: width(uniform),
        words: format!(
            "The planned adapter trains {} parameters, {} of what LoRA with rank {UNIFORM_RANK} trains on the same weights.",
            number::thousands(planned),
            share_of_uniform(plan)
        ),
    }
}

fn layer(plan: &Plan, index: usize) -> Layer {
    let state = &plan.hidden_states[index];
    Layer {
        index: state.index,
        dimension: state.dimension.map_or_else(|| "none".to_owned(), number::dimension),
        interval: match (state.interval, &state.degenerate) {
            (_, Some(reason)) => reason.clone(),
            (Some((low, high)), None) => format!("{} – {}", number::dimension(low), number::dimension(high)),
            (None, None) => String::new(),
        },
        points: number::thousands(state.points),
        left_out: number::thousands(state.duplicates + state.non_finite),
        block: plan.blocks.iter().find(|block| block.block == state.index).map(block_row),
    }
}

fn block_row(block: &BlockRank) -> Block {
    Block {
        difference: block.difference.map_or_else(|| "–".to_owned(), number::signed),
        interval: block
            .difference_interval
            .map(|(low, high)| format!("{} to {}", number::signed(low), number::signed(high)))
            .unwrap_or_default(),
        rises: block.growth_probability.map(number::percent).unwrap_or_default().replace(' ', "\u{a0}"),
        rank: block.rank,
        alpha: block.alpha.to_string(),
        // A rank and its probability stay on one line.
        probabilities: probabilities(block).replace(": ", ":\u{a0}").replace(" %", "\u{a0}%"),
        reason: block.reason.clone(),
    }
}

fn modules(plan: &Plan) -> Vec<Module> {
    let modules = plan.blocks.iter().flat_map(|block| &block.modules);
    modules
        .map(|module| Module {
            module: module.module.clone(),
            role: module.role.replace('_', "-"),
            shape: format!("{} → {}", module.in_features, module.out_features),
            rank: module.rank,
        })
        .collect()
}

fn provenance(plan: &Plan) -> Vec<Group> {
    let text = |name: &str, value: String| Entry { name: name.to_owned(), value, code: false };
    let code = |name: &str, value: &str| Entry { name: name.to_owned(), value: value.to_owned(), code: true };
    let mut model = vec![code("File", &plan.model.onnx), code("SHA-256", &plan.model.onnx_sha256)];
    model.extend(plan.model.other_files.iter().map(|(name, hash)| code(name, hash)));
    model.push(text("Exported by", plan.model.producer.clone()));
    model.push(text("Operator set", plan.model.opset.to_string()));
    if let Some(after) = plan.model.last_state_after_final_norm {
        model.push(text("Last hidden state", format!("{} the final norm", if after { "after" } else { "before" })));
    }
    let mut data = vec![code("File", &plan.data.file), code("SHA-256", &plan.data.sha256)];
    data.extend(plan.data.task.iter().map(|task| text("Task", task.clone())));
    data.push(text("Columns", plan.data.columns.join(", ")));
    let (rows, distinct) = (number::thousands(plan.data.rows), number::thousands(plan.data.distinct_rows));
    data.push(text("Rows", format!("{rows}, of which {distinct} distinct")));
    if let Some(sampling) = &plan.data.sampling {
        data.push(text("Rows used", number::thousands(sampling.rows)));
        if sampling.stratified {
            data.push(text("Drawn", "in proportion to the labels".into()));
        }
        if let (Some(until), Some(width)) = (sampling.until, sampling.width) {
            let reached = match width <= until {
                true => format!("no interval is wider than {until}; the widest is {width:.2}"),
                false => format!("all rows were used, and the widest interval is {width:.2}: {until} was not reached"),
            };
            data.push(text("Drawn until", reached));
        }
        if let (Some(rows), Some(batches)) = (sampling.mini_batch, sampling.mini_batches) {
            data.push(text("Mini-batches", format!("{batches} of {} rows, averaged", number::thousands(rows))));
        }
    }
    data.push(text("Maximum length", format!("{} tokens", plan.data.maximum_length)));
    data.push(code("Tokenizer SHA-256", &plan.data.tokenizer_sha256));
    let mut settings = Vec::new();
    flatten("", &plan.settings, &mut settings);
    let made = vec![
        text("gelora", plan.gelora_version.clone()),
        text("ONNX Runtime", format!("{}, {}", plan.extraction.onnxruntime, plan.extraction.provider)),
        text("Plan format", plan.format_version.to_string()),
        text("Pooling", plan.extraction.pooling.clone()),
    ];
    vec![
        Group { name: "Model", entries: model },
        Group { name: "Data", entries: data },
        Group { name: "Settings", entries: settings },
        Group { name: "Made with", entries: made },
    ]
}

/// Flattens nested values: `{"rule": {"offset": 1}}` becomes `rule.offset: 1`.
fn flatten(prefix: &str, value: &Value, entries: &mut Vec<Entry>) {
    let name = |key: &str| if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| flatten(&name(key), value, entries)),
        Value::Null => entries.push(Entry { name: prefix.to_owned(), value: "none".into(), code: false }),
        Value::Array(items) => {
            let text = items.iter().map(plain).collect::<Vec<_>>().join(", ");
            entries.push(Entry { name: prefix.to_owned(), value: text, code: false });
        }
        other => entries.push(Entry { name: prefix.to_owned(), value: plain(other), code: false }),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
