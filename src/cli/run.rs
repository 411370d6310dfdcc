//! `gelora run`: plan, train, merge and evaluate from one configuration; finished steps are not repeated.

use std::path::PathBuf;

#[cfg(feature = "train")]
use super::context::Context;
#[cfg(feature = "train")]
use super::hints;
#[cfg(feature = "train")]
use crate::train::TrainError;
#[cfg(feature = "train")]
use crate::workflow::WorkflowError;

const EXAMPLE: &str = "\
Examples:
  gelora run examples/quickstart.toml
  gelora run config.toml -o out-2

Writes plan.json, dimensions.csv, report.html, adapter_config.json, adapter/, merged/, evaluation.json and run.json.
Running it again resumes: a stage whose result is there, made from the same inputs, is not done again.";

/// Plan, train, merge and evaluate, as a configuration says
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "the options exist to be explained"))]
pub(crate) struct Arguments {
    /// The configuration (TOML)
    config: PathBuf,

    /// Folder for everything that is written, instead of the configuration's
    #[arg(short, long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[cfg(feature = "train")]
pub(crate) fn run(context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    if arguments.config.is_dir() {
        anyhow::bail!("{} is a folder; name the configuration, a .toml file", arguments.config.display());
    }
    let mut config = crate::settings::Config::read(&arguments.config)?;
    if let Some(out) = arguments.out {
        config.output.folder = out;
    }
    let out = config.output.folder.clone();
    crate::hint::speak(move |advice| hints::of_run(advice, &out));
    let finished = crate::workflow::run(&context.session_under(&config.device), &config).map_err(with_keys)?;
    context.print(&finished, || describe(&finished))
}

/// The table at the end: dimensions and ranks, metrics before and after, files.
#[cfg(feature = "train")]
fn describe(finished: &crate::workflow::Finished) -> String {
    use crate::report;
    use crate::workflow::BeforeAfter;

    let mut parts: Vec<String> = finished.plan.iter().map(report::plan_table).collect();
    let sets = [("dev", &finished.evaluation.dev), ("test", &finished.evaluation.test)];
    let mut rows = Vec::new();
    for (name, evaluated) in sets {
        let Some(BeforeAfter { before, after }) = evaluated else { continue };
        for metric in &after.metrics {
            let earlier = before.iter().flat_map(|facts| &facts.metrics).find(|other| other.name == metric.name);
            rows.push(vec![
                name.to_owned(),
                metric.name.clone(),
                earlier.map_or_else(|| "–".to_owned(), |metric| metric.show()),
                metric.show(),
                metric.note.clone().unwrap_or_default(),
            ]);
        }
    }
    if !rows.is_empty() {
        parts.push(report::table(&["rows", "metric", "before", "after", ""], &[2, 3], &rows));
    }
    let mut text = format!(
        "{} parameters trained, {:.1} rows/s on {}\nwritten:",
        finished.training.trained_parameters, finished.training.examples_per_second, finished.training.device
    );
    for file in &finished.files {
        text += &format!("\n  {file}");
    }
    parts.push(text);
    parts.join("\n\n")
}

/// An invalid setting is named as a key here, not as an option.
#[cfg(feature = "train")]
fn with_keys(error: WorkflowError) -> anyhow::Error {
    match error {
        WorkflowError::Setting(refused) | WorkflowError::Train(TrainError::Setting(refused)) => refused.into(),
        other => other.into(),
    }
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::settings::SettingError;

    #[test]
    fn a_setting_that_is_refused_is_a_key() {
        let refused = || SettingError::new("threshold_rows", "has no use for this".into(), "leave it out");
        let line = "`threshold_rows` has no use for this; leave it out";
        assert_eq!(with_keys(refused().into()).to_string(), line);
        let error = with_keys(TrainError::from(refused()).into());
        assert_eq!(error.to_string(), line);
        assert!(!error.is::<WorkflowError>());
    }
}
