//! Rows per second of the extraction: `extraction_speed MODEL_FOLDER TEXTS STORE [key=value …]`.
//!
//! TEXTS has one text per line. Keys: `threads`, `sessions`, `batch_tokens`, `repeat`, `device`, `profile`,
//! `pooling` (mean, first, last). The clock runs
//! from the first text that is tokenized to the last shard on disk; loading the model is not included. One line of JSON per
//! repetition. `scripts/bench/extraction.py` runs it beside other programs.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, bail};
use gelora::activations::{ExtractSettings, Pooling, extract_texts};
use gelora::dataset::{Example, Tokenizer};
use gelora::onnx::Transformer;
use gelora::progress::{Event, Observer};
use gelora::runtime::Device;

#[derive(Default)]
struct Clock(Mutex<(Option<Instant>, f64)>);

impl Observer for Clock {
    fn observe(&self, event: Event<'_>) {
        let Ok(mut clock) = self.0.lock() else { return };
        match event {
            Event::Begin { stage: "extracting activations", .. } => clock.0 = Some(Instant::now()),
            Event::End => clock.1 = clock.0.map_or(0.0, |start| start.elapsed().as_secs_f64()),
            Event::Notice(text) | Event::Warning(text) => eprintln!("{text}"),
            _ => {}
        }
    }
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, texts, store, rest @ ..] = arguments.as_slice() else {
        bail!("usage: extraction_speed MODEL_FOLDER TEXTS STORE [key=value …]")
    };
    let mut settings = ExtractSettings { overwrite: true, keep_duplicates: true, ..Default::default() };
    settings.session.device = Device::Cpu;
    let mut repeat = 1;
    for argument in rest {
        let (key, value) = argument.split_once('=').context("key=value")?;
        match key {
            "threads" => settings.session.threads = Some(value.parse()?),
            "sessions" => settings.sessions = Some(value.parse()?),
            "batch_tokens" => settings.batch_tokens = Some(value.parse()?),
            "device" => settings.session.device = value.parse()?,
            "profile" => settings.session.profile = Some(value.into()),
            "repeat" => repeat = value.parse()?,
            "pooling" => {
                settings.pooling = match value {
                    "first" => Pooling::First,
                    "last" => Pooling::Last,
                    _ => Pooling::Mean,
                }
            }
            _ => bail!("unknown key {key}"),
        }
    }
    let folder = PathBuf::from(folder);
    let model = Transformer::open(folder.join("model.onnx"))?;
    let tokenizer = Tokenizer::open(&folder.join("tokenizer.json"), 128)?;
    let texts = std::fs::read_to_string(texts)?;
    let example = |(line, text): (usize, &str)| Example { line, text: text.into(), pair: None };
    let examples: Vec<Example> = texts.lines().enumerate().map(example).collect();
    for _ in 0..repeat {
        let clock = Clock::default();
        let done = extract_texts(&model, &examples, &tokenizer, &settings, Path::new(store), &clock)?;
        let seconds = clock.0.lock().map_or(0.0, |clock| clock.1);
        println!(
            "{}",
            serde_json::json!({ "rows": done.rows(), "seconds": seconds, "rows_per_second": done.rows() as f64 / seconds })
        );
    }
    Ok(())
}
