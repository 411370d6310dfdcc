//! `gelora doctor`: which libraries, providers and devices are really there.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::report;
use crate::runtime::{Device, InferenceSession, InputTensor, Library, RECOMMENDED, RuntimeError, SessionSettings};

use super::context::Context;

const EXAMPLE: &str = "\
Examples:
  gelora doctor
  gelora doctor --ort-lib /opt/onnxruntime/lib/libonnxruntime.so --json

Exit code 1 when something is missing that gelora needs, with the cure.";

/// Show which libraries and devices are really there, and the cure where one is missing
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Arguments {}

#[derive(Debug, Serialize)]
struct Findings {
    gelora: &'static str,
    features: Vec<&'static str>,
    system: String,
    processor: Processor,
    onnxruntime: OnnxRuntime,
    libtorch: Libtorch,
    /// What is missing, each with its cure; empty when all is well.
    missing: Vec<String>,
    /// What works, but could be better.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Processor {
    name: String,
    cores: usize,
    features: Vec<&'static str>,
    memory_gib: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct OnnxRuntime {
    path: Option<String>,
    version: Option<String>,
    found: Option<String>,
    providers: Vec<String>,
    /// Devices on which a matrix product was really computed.
    trials: Vec<Trial>,
}

#[derive(Debug, Serialize)]
struct Trial {
    device: String,
    /// Execution provider that ran the product.
    provider: Option<String>,
    gflops: Option<f64>,
    error: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct Libtorch {
    built_in: bool,
    path: Option<String>,
    version: Option<String>,
    cuda_devices: Option<i64>,
    why_no_cuda: Option<String>,
}

pub(crate) fn run(context: &Context, _arguments: Arguments) -> anyhow::Result<()> {
    let findings = examine(context);
    context.print(&findings, || findings.describe())?;
    match findings.missing.len() {
        0 => Ok(()),
        1 => anyhow::bail!("{}", findings.missing[0]),
        count => anyhow::bail!("{count} things are missing; each line above that begins with `missing` names its cure"),
    }
}

fn examine(context: &Context) -> Findings {
    let mut missing = Vec::new();
    let mut notes = Vec::new();
    let onnxruntime = onnxruntime(context, &mut missing, &mut notes);
    let libtorch = libtorch(&mut notes);
    Findings {
        gelora: env!("CARGO_PKG_VERSION"),
        features: if cfg!(feature = "train") { vec!["train"] } else { vec![] },
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: processor(),
        onnxruntime,
        libtorch,
        missing,
        notes,
    }
}

fn onnxruntime(context: &Context, missing: &mut Vec<String>, notes: &mut Vec<String>) -> OnnxRuntime {
    let library = match Library::load(context.ort_lib()) {
        Ok(library) => library,
        Err(error) => {
            missing.push(error.to_string());
            return OnnxRuntime::default();
        }
    };
    if library.version() != RECOMMENDED {
        notes.push(format!("gelora is tested with ONNX Runtime {RECOMMENDED}, this is {}", library.version()));
    }
    let wished = context.session().inference().device;
    let mut devices = vec![Device::Cpu];
    match wished {
        Device::Cuda(_) => devices.push(wished),
        Device::Auto if library.has_cuda() => devices.push(Device::Cuda(0)),
        _ => notes.extend((!library.has_cuda()).then(|| {
            "this ONNX Runtime has no CUDA; for a GPU, point --ort-lib to the library in the package onnxruntime-gpu".into()
        })),
    }
    let trials: Vec<Trial> =
        devices.iter().map(|device| try_device(library, *device, context.session().inference())).collect();
    for (device, trial) in devices.iter().zip(&trials) {
        if let Some(error) = &trial.error {
            let needed = *device == wished || *device == Device::Cpu;
            if needed { missing.push(error.clone()) } else { notes.push(error.clone()) }
        }
    }
    OnnxRuntime {
        path: Some(library.path().display().to_string()),
        version: Some(library.version().to_owned()),
        found: Some(library.how_found().to_string()),
        providers: library.providers().to_vec(),
        trials,
    }
}

/// A device counts when it has computed a product rightly.
fn try_device(library: &Library, device: Device, settings: SessionSettings) -> Trial {
    let result = product(library, SessionSettings { device, ..settings });
    let device = device.to_string();
    match result {
        Ok((provider, gflops)) => Trial { device, provider: Some(provider), gflops: Some(gflops), error: None },
        Err(error) => Trial { device, provider: None, gflops: None, error: Some(error.to_string()) },
    }
}

fn product(library: &Library, settings: SessionSettings) -> anyhow::Result<(String, f64)> {
    const SIZE: usize = 512;
    let model = include_bytes!("../../onnx/product.onnx");
    let mut session = InferenceSession::from_bytes(library, model, Path::new("."), &settings)?;
    // Small whole numbers: their products and sums are exact in any order.
    let a: Vec<f32> = (0..SIZE * SIZE).map(|index| (index % 7) as f32 - 3.0).collect();
    let b: Vec<f32> = (0..SIZE * SIZE).map(|index| (index % 5) as f32 - 2.0).collect();
    let shape = [SIZE, SIZE];
    let inputs =
        [("a", InputTensor::F32 { shape: &shape, data: &a }), ("b", InputTensor::F32 { shape: &shape, data: &b })];
    let mut seconds = f64::INFINITY;
    for _ in 0..4 {
        let start = Instant::now();
        let outputs = session.run(&inputs, &["product"])?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
        let last: f32 = (0..SIZE).map(|k| a[(SIZE - 1) * SIZE + k] * b[k * SIZE + SIZE - 1]).sum();
        if outputs.first().and_then(|output| output.last().copied()) != Some(last) {
            return Err(RuntimeError::Run { reason: "a product of two matrices came out wrong".into() }.into());
        }
    }
    let provider = session.placement().matrix_products().into_keys().next().unwrap_or("unknown").to_owned();
    Ok((provider, 2.0 * (SIZE as f64).powi(3) / seconds / 1e9))
}

#[cfg(feature = "train")]
fn libtorch(notes: &mut Vec<String>) -> Libtorch {
    let folder = crate::train::libtorch_folder();
    let version = folder.as_deref().and_then(Path::parent).and_then(libtorch_version);
    let (cuda_devices, why_no_cuda) = match crate::train::cuda_devices() {
        Ok(0) => (Some(0), Some("no driver or no device".to_owned())),
        Ok(count) => (Some(count), None),
        Err(reason) => (None, Some(reason)),
    };
    if cuda_devices.unwrap_or(0) == 0 {
        notes.push("training runs on the CPU: libtorch sees no CUDA device".into());
    }
    Libtorch { built_in: true, path: folder.map(|path| path.display().to_string()), version, cuda_devices, why_no_cuda }
}

#[cfg(not(feature = "train"))]
fn libtorch(notes: &mut Vec<String>) -> Libtorch {
    notes.push(super::train::WITHOUT_TRAINING.into());
    Libtorch::default()
}

/// The C++ package says its version in `build-version`, the Python package in `version.py`.
#[cfg(feature = "train")]
fn libtorch_version(folder: &Path) -> Option<String> {
    if let Ok(version) = std::fs::read_to_string(folder.join("build-version")) {
        return Some(version.trim().to_owned());
    }
    let text = std::fs::read_to_string(folder.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

fn processor() -> Processor {
    let first = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = first("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    Processor {
        name: first("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        features: processor_features(),
        memory_gib: memory.map(|kib| (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0),
    }
}

/// Those that the kernels of gelora and of its libraries are fast with.
#[cfg(target_arch = "x86_64")]
fn processor_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    features.extend(std::is_x86_feature_detected!("avx2").then_some("avx2"));
    features.extend(std::is_x86_feature_detected!("fma").then_some("fma"));
    features.extend(std::is_x86_feature_detected!("avx512f").then_some("avx512f"));
    features.extend(std::is_x86_feature_detected!("avx512bf16").then_some("avx512bf16"));
    features
}

#[cfg(not(target_arch = "x86_64"))]
fn processor_features() -> Vec<&'static str> {
    Vec::new()
}

impl Findings {
    fn describe(&self) -> String {
        let features = if self.features.is_empty() { "planning only".to_owned() } else { self.features.join(", ") };
        let mut facts = vec![
            ("gelora", format!("{} ({features}), {}", self.gelora, self.system)),
            ("processor", self.processor.describe()),
            ("ONNX Runtime", self.onnxruntime.describe()),
        ];
        for trial in &self.onnxruntime.trials {
            facts.push(("", trial.describe()));
        }
        facts.push(("libtorch", self.libtorch.describe()));
        facts.extend(self.notes.iter().map(|note| ("note", note.clone())));
        facts.extend(self.missing.iter().map(|missing| ("missing", missing.clone())));
        if self.missing.is_empty() {
            facts.push(("", "all that gelora needs is there".to_owned()));
        }
        report::facts(&facts)
    }
}

impl Processor {
    fn describe(&self) -> String {
        let memory = self.memory_gib.map(|gib| format!(", {gib} GiB of memory")).unwrap_or_default();
        let features =
            if self.features.is_empty() { String::new() } else { format!(" ({})", self.features.join(", ")) };
        format!("{}, {} cores{features}{memory}", self.name, self.cores)
    }
}

impl OnnxRuntime {
    fn describe(&self) -> String {
        match (&self.version, &self.path, &self.found) {
            (Some(version), Some(path), Some(found)) => {
                format!("{version}, {path} (found: {found}); providers: {}", self.providers.join(", "))
            }
            _ => "not usable".to_owned(),
        }
    }
}

impl Trial {
    fn describe(&self) -> String {
        match (&self.provider, self.gflops) {
            (Some(provider), Some(gflops)) => {
                format!("{} works: a matrix product ran on {provider} at {gflops:.0} GFLOP/s", self.device)
            }
            _ => format!("{} does not work", self.device),
        }
    }
}

impl Libtorch {
    fn describe(&self) -> String {
        if !self.built_in {
            return "not built in".to_owned();
        }
        let version = self.version.as_deref().unwrap_or("of unknown version");
        let path = self.path.as_deref().unwrap_or("an unknown folder");
        match (self.cuda_devices, &self.why_no_cuda) {
            (Some(count), None) => format!("{version}, {path}; {count} CUDA devices"),
            (_, Some(reason)) => format!("{version}, {path}; no CUDA: {reason}"),
            _ => format!("{version}, {path}"),
        }
    }
}
