//! `gelora extract`: the activations of every layer over a data set, to a store.

use std::path::PathBuf;

use serde::Serialize;

use crate::activations::Store;
use crate::report;
use crate::settings::{DataSettings, ExtractionOptions};
use crate::workflow::extract_activations;

use super::context::Context;

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
    data: DataSettings,

    #[command(flatten)]
    extraction: ExtractionOptions,

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
    let plan = arguments.extraction.section();
    let data = arguments.data;
    let session = context.session();
    let store = extract_activations(&session, &arguments.model, &data, &plan, &arguments.out, arguments.overwrite)?;
    let extracted = Extracted::new(&store);
    context.print(&extracted, || extracted.describe())
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
            onnxruntime: manifest.onnxruntime(),
            matrix_products: manifest.matrix_products(),
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
