//! Which libraries, providers and devices actually work: the implementation of `gelora doctor`.

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::hint::Hint;
use crate::runtime::{Device, InferenceSession, InputTensor, Library, RECOMMENDED, RuntimeError, SessionSettings};

use super::Session;

/// What an installation has, and what is missing.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// The version of gelora.
    pub gelora: &'static str,
    /// Optional features it was built with: `train`, or none.
    pub features: Vec<&'static str>,
    /// Operating system and architecture.
    pub system: String,
    /// The processor and its memory.
    pub processor: ProcessorFacts,
    /// ONNX Runtime, which computes activations and evaluates.
    pub onnxruntime: OnnxRuntimeFacts,
    /// libtorch, which does the training.
    pub libtorch: LibtorchFacts,
    /// What is missing, each with how to fix it; empty when all is well.
    pub missing: Vec<String>,
    /// What works, but could be better.
    pub notes: Vec<String>,
}

/// A processor and its memory.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessorFacts {
    /// Name of the processor; the architecture where the system does not report one.
    pub name: String,
    /// Number of hardware threads.
    pub cores: usize,
    /// Instruction sets that speed up the kernels of gelora and of its libraries.
    pub features: Vec<&'static str>,
    /// Memory of the machine in GiB, to one decimal.
    pub memory_gib: Option<f64>,
}

/// The ONNX Runtime found; empty where none can be loaded.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OnnxRuntimeFacts {
    /// Path of the library.
    pub path: Option<String>,
    /// Version of the library.
    pub version: Option<String>,
    /// How the library was found.
    pub found: Option<String>,
    /// Execution providers it was built with.
    pub providers: Vec<String>,
    /// Devices on which a matrix product was actually computed.
    pub trials: Vec<DeviceTrial>,
}

/// Result of a matrix product on a device.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceTrial {
    /// The device requested.
    #[serde(serialize_with = "crate::settings::device_name")]
    pub device: Device,
    /// The execution provider that ran it.
    pub provider: Option<String>,
    /// Speed in 10⁹ floating-point operations per second.
    pub gflops: Option<f64>,
    /// Why it failed, with how to fix it.
    pub error: Option<String>,
}

/// The libtorch that gelora was built with; empty where it was built without.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LibtorchFacts {
    /// Whether libtorch is built in.
    pub built_in: bool,
    /// Folder of the libtorch libraries.
    pub path: Option<String>,
    /// Version of libtorch.
    pub version: Option<String>,
    /// Number of CUDA devices it sees.
    pub cuda_devices: Option<i64>,
    /// Why it sees no CUDA device.
    pub why_no_cuda: Option<String>,
}

/// Looks for the libraries and devices that gelora needs, and computes a matrix product on every usable device: on the CPU,
/// and on the GPU that the session requests or that ONNX Runtime has.
///
/// Something missing is not an error: it is listed in [`Diagnosis::missing`].
pub fn examine(session: &Session<'_>) -> Diagnosis {
    let features = if cfg!(feature = "train") { vec!["train"] } else { vec![] };
    diagnosis(session, features, libtorch)
}

/// As [`examine`], in a program that is not linked against libtorch.
pub(crate) fn examine_without_libtorch(session: &Session<'_>) -> Diagnosis {
    diagnosis(session, Vec::new(), |_| LibtorchFacts::default())
}

fn diagnosis(
    session: &Session<'_>,
    features: Vec<&'static str>,
    libtorch: impl FnOnce(&mut Vec<String>) -> LibtorchFacts,
) -> Diagnosis {
    let mut missing = Vec::new();
    let mut notes = Vec::new();
    let onnxruntime = onnxruntime(session, &mut missing, &mut notes);
    let libtorch = libtorch(&mut notes);
    Diagnosis {
        gelora: env!("CARGO_PKG_VERSION"),
        features,
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: processor(),
        onnxruntime,
        libtorch,
        missing,
        notes,
    }
}

fn onnxruntime(session: &Session<'_>, missing: &mut Vec<String>, notes: &mut Vec<String>) -> OnnxRuntimeFacts {
    let library = match Library::load(session.ort_lib()) {
        Ok(library) => library,
        Err(error) => {
            missing.push(error.to_string());
            return OnnxRuntimeFacts::default();
        }
    };
    if library.version() != RECOMMENDED {
        notes.push(format!("gelora is tested with ONNX Runtime {RECOMMENDED}, this is {}", library.version()));
    }
    let wished = session.inference().device;
    let mut devices = vec![Device::Cpu];
    match wished {
        Device::Cuda(_) => devices.push(wished),
        Device::Auto if library.has_cuda() => devices.push(Device::Cuda(0)),
        _ => notes.extend((!library.has_cuda()).then(|| {
            format!(
                "this ONNX Runtime has no CUDA; for a GPU, point {} to the library in the package onnxruntime-gpu",
                Hint::OrtLib
            )
        })),
    }
    let trials: Vec<DeviceTrial> =
        devices.into_iter().map(|device| try_device(library, device, session.inference())).collect();
    for trial in &trials {
        if let Some(error) = &trial.error {
            let needed = trial.device == wished || trial.device == Device::Cpu;
            if needed { missing.push(error.clone()) } else { notes.push(error.clone()) }
        }
    }
    OnnxRuntimeFacts {
        path: Some(library.path().display().to_string()),
        version: Some(library.version().to_owned()),
        found: Some(library.how_found().to_string()),
        providers: library.providers().to_vec(),
        trials,
    }
}

/// Tries a device; it counts as usable only if it computes a product correctly.
fn try_device(library: &Library, device: Device, settings: SessionSettings) -> DeviceTrial {
    match product(library, SessionSettings { device, ..settings }) {
        Ok((provider, gflops)) => DeviceTrial { device, provider: Some(provider), gflops: Some(gflops), error: None },
        Err(error) => DeviceTrial { device, provider: None, gflops: None, error: Some(error.to_string()) },
    }
}

/// The execution provider of a matrix product, and its speed.
fn product(library: &Library, settings: SessionSettings) -> Result<(String, f64), RuntimeError> {
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
            return Err(RuntimeError::Run { reason: "a product of two matrices came out wrong".into() });
        }
    }
    let provider = session.placement().matrix_products().into_keys().next().unwrap_or("unknown").to_owned();
    Ok((provider, 2.0 * (SIZE as f64).powi(3) / seconds / 1e9))
}

#[cfg(feature = "train")]
fn libtorch(notes: &mut Vec<String>) -> LibtorchFacts {
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
    let path = folder.map(|path| path.display().to_string());
    LibtorchFacts { built_in: true, path, version, cuda_devices, why_no_cuda }
}

#[cfg(not(feature = "train"))]
fn libtorch(_: &mut Vec<String>) -> LibtorchFacts {
    LibtorchFacts::default()
}

/// The C++ package states its version in `build-version`, the Python package in `version.py`.
#[cfg(feature = "train")]
fn libtorch_version(folder: &Path) -> Option<String> {
    if let Ok(version) = std::fs::read_to_string(folder.join("build-version")) {
        return Some(version.trim().to_owned());
    }
    let text = std::fs::read_to_string(folder.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split(['\'', '"']).nth(1).map(str::to_owned)
}

fn processor() -> ProcessorFacts {
    let first = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory = first("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    ProcessorFacts {
        name: first("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        features: processor_features(),
        memory_gib: memory.map(|kib| (kib / 1024.0 / 1024.0 * 10.0).round() / 10.0),
    }
}

/// Instruction sets that speed up the kernels of gelora and of its libraries.
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
