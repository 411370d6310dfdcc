//! `gelora doctor`: which libraries, providers and devices are actually available.

use crate::report;
use crate::workflow::{
    DeviceTrial, Diagnosis, LibtorchFacts, OnnxRuntimeFacts, ProcessorFacts, examine_without_libtorch,
};

use super::context::Context;
use super::no_training::NoTraining;

const EXAMPLE: &str = "\
Examples:
  gelora doctor
  gelora doctor --ort-lib /opt/onnxruntime/lib/libonnxruntime.so --json

Exit code 1 when something is missing that gelora needs, with the cure.";

/// Show which libraries and devices are really there, and the cure where one is missing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {}

#[cfg(feature = "train")]
pub(crate) fn run(context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    tell(context, &crate::workflow::examine(&context.session()))
}

/// Without the program that trains: that it is not there is a note, as everything else works; that it cannot be started is
/// something missing.
pub(crate) fn run_without_training(context: &Context, _arguments: Arguments, why: &NoTraining) -> anyhow::Result<()> {
    let mut diagnosis = examine_without_libtorch(&context.session());
    match why {
        NoTraining::NotThere { .. } => diagnosis.notes.push(why.to_string()),
        _ => diagnosis.missing.push(why.to_string()),
    }
    tell(context, &diagnosis)
}

fn tell(context: &Context, diagnosis: &Diagnosis) -> anyhow::Result<()> {
    context.print(diagnosis, || describe(diagnosis))?;
    match diagnosis.missing.as_slice() {
        [] => Ok(()),
        [one] => anyhow::bail!("{one}"),
        several => {
            let count = several.len();
            anyhow::bail!("{count} things are missing; each line above that begins with `missing` names its cure")
        }
    }
}

/// The diagnosis as text.
fn describe(diagnosis: &Diagnosis) -> String {
    let Diagnosis { features, onnxruntime, missing, .. } = diagnosis;
    let features = if features.is_empty() { "planning only".to_owned() } else { features.join(", ") };
    let mut facts = vec![
        ("gelora", format!("{} ({features}), {}", diagnosis.gelora, diagnosis.system)),
        ("processor", processor(&diagnosis.processor)),
        ("ONNX Runtime", library(onnxruntime)),
    ];
    facts.extend(onnxruntime.trials.iter().map(|found| ("", trial(found))));
    facts.push(("libtorch", libtorch(&diagnosis.libtorch)));
    facts.extend(diagnosis.notes.iter().map(|note| ("note", note.clone())));
    facts.extend(missing.iter().map(|missing| ("missing", missing.clone())));
    if missing.is_empty() {
        facts.push(("", "all that gelora needs is there".to_owned()));
    }
    report::facts(&facts)
}

fn processor(facts: &ProcessorFacts) -> String {
    let memory = facts.memory_gib.map(|gib| format!(", {gib} GiB of memory")).unwrap_or_default();
    let features = if facts.features.is_empty() { String::new() } else { format!(" ({})", facts.features.join(", ")) };
    format!("{}, {} cores{features}{memory}", facts.name, facts.cores)
}

fn library(facts: &OnnxRuntimeFacts) -> String {
    match (&facts.version, &facts.path, &facts.found) {
        (Some(version), Some(path), Some(found)) => {
            format!("{version}, {path} (found: {found}); providers: {}", facts.providers.join(", "))
        }
        _ => "not usable".to_owned(),
    }
}

fn trial(trial: &DeviceTrial) -> String {
    match (&trial.provider, trial.gflops) {
        (Some(provider), Some(gflops)) => {
            format!("{} works: a matrix product ran on {provider} at {gflops:.0} GFLOP/s", trial.device)
        }
        _ => format!("{} does not work", trial.device),
    }
}

fn libtorch(facts: &LibtorchFacts) -> String {
    if !facts.built_in {
        return "not linked".to_owned();
    }
    let version = facts.version.as_deref().unwrap_or("of unknown version");
    let path = facts.path.as_deref().unwrap_or("an unknown folder");
    match (facts.cuda_devices, &facts.why_no_cuda) {
        (Some(count), None) => format!("{version}, {path}; {count} CUDA devices"),
        (_, Some(reason)) => format!("{version}, {path}; no CUDA: {reason}"),
        _ => format!("{version}, {path}"),
    }
}
