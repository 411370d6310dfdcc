//! `gelora expose`: a copy of an export that gelora can use.

use std::path::PathBuf;

use crate::report;
use crate::workflow::{ExposeSettings, Exposed, WantedStates, expose};

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora expose my-model -o my-model-exposed
  gelora expose my-model -o my-model-fixed --eval
  gelora expose my-model -o my-model-exposed --tap '/encoder/layer\\.\\d+/output/LayerNorm/Add_1_output_0|/embeddings/.*/Add_1_output_0'
  gelora expose my-model -o my-model-exposed --tap-list embeddings.out,block.0.out,block.1.out

The copy has outputs hidden_states.0 (embeddings) to hidden_states.L, found as the stream that every block adds to. It
differs from the export only where it has to; the rest is equal to the bit. Planning and training find the hidden states
by themselves in the same way; a copy is needed only to name them differently, or for other programs. A plan belongs to
the file that it was made for: plan and train with the same one of the two.";

/// Write a copy of an export that shows its hidden states, or with dropout switched off (--eval)
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {
    /// A model folder, or an .onnx file
    model: PathBuf,

    /// Folder for the copy
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,

    /// Switch off dropout that was left on while exporting
    #[arg(long)]
    eval: bool,

    /// Use the values whose whole names fit this regular expression as hidden states, in the order of the graph
    #[arg(long, value_name = "REGEX", conflicts_with = "tap_list")]
    tap: Option<String>,

    /// Use these values as hidden states 0 to L
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tap_list: Option<Vec<String>>,

    /// Do not run the copy beside the export to compare their outputs
    #[arg(long)]
    no_check: bool,
}

pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { model, out, eval, tap, tap_list, no_check } = arguments;
    let states = match (tap, tap_list) {
        (Some(pattern), _) => WantedStates::Matching(pattern),
        (None, Some(names)) => WantedStates::Named(names),
        (None, None) => WantedStates::Found,
    };
    let settings = ExposeSettings { eval, states, check: !no_check };
    let exposed = expose(&context.session(), &model, &out, &settings)?;
    context.print(&exposed, || describe(&exposed, eval))
}

/// The result as text; `eval` is whether dropout was to be switched off.
fn describe(exposed: &Exposed, eval: bool) -> String {
    let Exposed { switched_off, hidden_states, copied, .. } = exposed;
    let mut facts = vec![("written", exposed.out.clone())];
    if !switched_off.is_empty() {
        facts.push(("dropout", format!("{} nodes switched off", switched_off.len())));
    } else if eval {
        facts.push(("dropout", "none was active".to_owned()));
    }
    facts.push(("hidden states", format!("{} ({})", hidden_states.len(), exposed.found)));
    if let (Some(first), Some(last)) = (hidden_states.first(), hidden_states.last()) {
        facts.push(("first, last", format!("{first}, {last}")));
    }
    let checked = match (&exposed.comparison, &exposed.not_compared) {
        (Some(found), _) => format!("{} are equal to the export's to the bit", found.outputs.join(", ")),
        (None, reason) => format!("not run: {}", reason.as_deref().unwrap_or_default()),
    };
    facts.push(("checked", checked));
    facts.push(("copied", if copied.is_empty() { "nothing".to_owned() } else { copied.join(", ") }));
    report::facts(&facts)
}
