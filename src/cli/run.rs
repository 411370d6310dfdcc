//! `gelora run`: plan, train, merge and evaluate from one configuration; what is done is not done again.

use std::path::PathBuf;

use super::context::Context;

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

#[cfg(not(feature = "train"))]
pub(crate) fn run(_context: &Context, arguments: Arguments) -> anyhow::Result<()> {
    // What is wrong with a configuration is said by every build.
    crate::settings::Config::read(&arguments.config)?;
    anyhow::bail!(super::train::WITHOUT_TRAINING)
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
    let finished = crate::workflow::run(&context.session_under(&config.device), &config);
    let finished = finished.map_err(|error| with_keys(error.into(), &config))?;
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

/// The cure of an error may be an option of the single commands (`--batch-size`): here it is a key of the configuration.
#[cfg(feature = "train")]
fn with_keys(error: anyhow::Error, config: &crate::settings::Config) -> anyhow::Error {
    let line = super::exit::in_one_line(&error);
    let named = |word: &str| {
        word.strip_prefix("--").map(|option| option.trim_end_matches(|c: char| !c.is_alphanumeric()).to_owned())
    };
    // The options of the script that exports are its own.
    let ours = line.replace("export_onnx.py --", "");
    let options: Vec<String> = ours.split([' ', '`', '(']).filter_map(named).collect();
    let key = |option: &String| match option.as_str() {
        "restart" => Some(format!("without {}, training starts anew", config.output.folder.join("adapter").display())),
        option => section_of(&option.replace('-', "_"), config),
    };
    let keys: Vec<String> = options.iter().filter_map(key).collect();
    if keys.is_empty() { error } else { anyhow::anyhow!("{line} (for a run: {})", keys.join(", ")) }
}

/// A key and the section that it is in. Those of `[device]` are options of this command too.
#[cfg(feature = "train")]
fn section_of(key: &str, config: &crate::settings::Config) -> Option<String> {
    let sections = serde_json::to_value(config).ok()?;
    let has = |(_, section): &(&String, &serde_json::Value)| section.get(key).is_some();
    let (section, _) = sections.as_object()?.iter().filter(|(name, _)| *name != "device").find(has)?;
    Some(format!("{key} in [{section}]"))
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::*;
    use crate::settings::Config;

    #[test]
    fn options_that_a_cure_names_are_keys_of_a_configuration() {
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t.tsv\"\n[output]\nfolder = \"out\"\n";
        let config: Config = toml::from_str(text).unwrap();
        let line = |text: &str| with_keys(anyhow::anyhow!(text.to_owned()), &config).to_string();
        assert_eq!(
            line("no memory; use a smaller --batch-size or --max-length, or another device"),
            "no memory; use a smaller --batch-size or --max-length, or another device (for a run: batch_size in [train], max_length in [data])"
        );
        assert_eq!(
            line("it is damaged; start anew with --restart"),
            "it is damaged; start anew with --restart (for a run: without out/adapter, training starts anew)"
        );
        assert_eq!(
            line("it has a head; leave out --head"),
            "it has a head; leave out --head (for a run: head in [train])"
        );
        assert_eq!(
            line("a.tsv: the labels are odd; list all labels (--labels A,B,…)"),
            "a.tsv: the labels are odd; list all labels (--labels A,B,…) (for a run: labels in [data])"
        );
        for text in ["take --device cpu", "name it with --ort-lib", "export it (scripts/export_onnx.py --head lm)"] {
            assert_eq!(line(text), text, "this command has it too, or it is of another program");
        }
    }
}
