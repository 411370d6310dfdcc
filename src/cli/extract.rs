//! `gelora extract`: the activations of every layer over a data set, to a store.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::activations::{self, ActivationsError, ExtractSettings, Store, extract_texts};
use crate::progress::{Event, Observer};
use crate::report;

use super::arguments::{DataArguments, ExtractionArguments};
use super::config::PlanSection;
use super::context::Context;
use super::drawing::{Drawn, Subject};
use super::opened::Opened;
use super::rows::{Purpose, Rows};

const EXAMPLE: &str = "\
Examples:
  gelora extract my-model --data train.tsv --task cola -o store
  gelora extract my-model --data pairs.csv --text question --pair answer --pooling first -o store

The store holds one .npy file per layer and shard, which numpy.load opens. Running it again resumes.";

/// Run a data set through the model and keep the activations of every layer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder of the store
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    #[command(flatten)]
    data: DataArguments,

    #[command(flatten)]
    extraction: ExtractionArguments,

    /// Replace a store that was made of something else
    #[arg(long)]
    overwrite: bool,
}

#[derive(Debug, Serialize)]
struct Extracted {
    store: String,
    hidden_states: usize,
    widths: Vec<usize>,
    rows: usize,
    points: usize,
    duplicates: usize,
    pooling: String,
    onnxruntime: String,
    matrix_products: String,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let plan = arguments.extraction.enter(PlanSection::default());
    let data = arguments.data.section();
    context.take_folder(&arguments.out, &[("model", &arguments.model)])?;
    let model = Opened::new(&arguments.model)?;
    model.tell_origin(context);
    model.told_structure(context, &model.weights()?)?;
    let tokenizer = model.tokenizer(context, data.max_length())?;
    let rows = Rows::load(context, &data, &tokenizer, Purpose::planning(plan.stratified))?;
    let drawn = Drawn::new(&rows, &plan)?;
    let subject = Subject { context, model: &model, rows: &rows, tokenizer: &tokenizer, drawn: &drawn, plan: &plan };
    let (store, _) = subject.extract(&arguments.out, arguments.overwrite)?;
    let extracted = Extracted::new(&store);
    context.print(&extracted, || extracted.describe())
}

/// Extracts the rows that were drawn, or the first so many of them, to a store; or goes on with it, or takes it as it is
/// where it is complete.
pub(crate) fn extract(
    subject: &Subject<'_>,
    out: &Path,
    overwrite: bool,
    first_rows: Option<usize>,
) -> anyhow::Result<Store> {
    let Subject { context, model, rows, tokenizer, drawn, plan } = *subject;
    let observer = context.observer();
    let (model, states) = (&model.model, &model.states);
    let settings = |overwrite| ExtractSettings { first_rows, ..plan.extraction(context, rows, overwrite) };
    match rows {
        Rows::Table(dataset) => {
            let examples = drawn.of(&dataset.examples);
            once_more(observer, overwrite, |overwrite| {
                extract_texts(model, states, &examples, tokenizer, &settings(overwrite), out, observer)
            })
        }
        Rows::Spans(spans) => {
            let encodings = drawn.of(&spans.encodings);
            once_more(observer, overwrite, |overwrite| {
                let settings = settings(overwrite).of_tokenizer(tokenizer);
                activations::extract(model, states, &encodings, &settings, out, observer)
            })
        }
    }
}

/// Extracts; and again, over a store that was made of something else, where that is wanted.
fn once_more(
    observer: &dyn Observer,
    overwrite: bool,
    attempt: impl Fn(bool) -> Result<Store, ActivationsError>,
) -> anyhow::Result<Store> {
    match attempt(false) {
        Err(error @ ActivationsError::OtherStore { .. }) if overwrite => {
            observer.observe(Event::Notice(&format!("made anew: {}", short_reason(&error))));
            Ok(attempt(true)?)
        }
        other => Ok(other?),
    }
}

/// What differs, without the cure: it is being applied.
pub(crate) fn short_reason(error: &ActivationsError) -> String {
    let text = error.to_string();
    text.split(';').next().unwrap_or(&text).to_owned()
}

impl Extracted {
    fn new(store: &Store) -> Self {
        let manifest = store.manifest();
        Self {
            store: store.path().display().to_string(),
            hidden_states: store.hidden_states(),
            widths: manifest.widths.clone(),
            rows: manifest.rows_done(),
            points: manifest.points,
            duplicates: manifest.duplicates,
            pooling: manifest.pooling.to_string(),
            onnxruntime: distinct(manifest.shards.iter().map(|shard| shard.onnxruntime.as_str())),
            matrix_products: distinct(manifest.shards.iter().map(|shard| shard.matrix_products.as_str())),
        }
    }

    fn describe(&self) -> String {
        let mut widths = self.widths.clone();
        widths.dedup();
        let widths = widths.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        report::facts(&[
            ("store", self.store.clone()),
            ("hidden states", format!("{}, width {widths}", self.hidden_states)),
            ("rows", format!("{}, of which {} repeat others", self.rows, self.duplicates)),
            ("points", format!("{} ({})", self.points, self.pooling)),
            ("computed by", format!("ONNX Runtime {}, {}", self.onnxruntime, self.matrix_products)),
        ])
    }
}

/// The different values in their order: shards of a resumed run may have been computed elsewhere.
pub(crate) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let mut seen: Vec<&str> = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen.join("; ")
}
