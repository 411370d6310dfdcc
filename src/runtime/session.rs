//! A model, loaded by ONNX Runtime on one device.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use ort::session::builder::{AutoDevicePolicy, GraphOptimizationLevel, SessionBuilder};
use ort::session::{OutputSelector, RunOptions, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, TensorRef, ValueType};

use super::error::one_line;
use super::placement::Placement;
use super::sizes::{FixedSizes, filled};
use super::{Device, Library, RuntimeError};
use crate::onnx::{DataType, Dimension, Model, ValueInfo};

/// Settings of a session.
#[derive(Debug, Clone, Default)]
pub struct SessionSettings {
    /// Device that the session runs on.
    pub device: Device,
    /// Threads within an operation on the CPU; `None` means all cores.
    pub threads: Option<usize>,
    /// Lets CUDA round the inputs of float32 products to 10 bits of mantissa: faster, but off by default because it affects
    /// distances between activations.
    pub tf32: bool,
    /// Keeps active dropout. ONNX Runtime removes most of it while optimising, and a check of the export must see what
    /// other programs would see.
    pub keep_dropout: bool,
    /// Leaves the graph unoptimized: every node is computed by itself.
    pub unoptimized: bool,
    /// Writes a Chrome trace of every operation to files whose path starts with this.
    pub profile: Option<PathBuf>,
}

/// A model that can be run.
#[derive(Debug)]
pub struct InferenceSession {
    inner: ort::session::Session,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    device: Device,
    why: Option<String>,
    placement: Placement,
}

/// An input, borrowed. `data` is row-major and as long as the product of `shape`.
#[derive(Debug, Clone, Copy)]
#[allow(missing_docs, reason = "shape and data are what they are named")]
pub enum InputTensor<'a> {
    I64 { shape: &'a [usize], data: &'a [i64] },
    I32 { shape: &'a [usize], data: &'a [i32] },
    F32 { shape: &'a [usize], data: &'a [f32] },
    F16 { shape: &'a [usize], data: &'a [f16] },
    Bool { shape: &'a [usize], data: &'a [bool] },
}

enum Source<'a> {
    File(&'a Path),
    Bytes(&'a [u8], &'a Path),
}

impl InferenceSession {
    /// Loads an `.onnx` file.
    pub fn from_file(library: &Library, path: &Path, settings: &SessionSettings) -> Result<Self, RuntimeError> {
        // ONNX Runtime says "protobuf parsing failed" for everything; a missing file gets its own message.
        crate::files::open(path).map_err(|source| crate::onnx::OnnxError::Open { path: path.into(), source })?;
        Self::build(library, &Source::File(path), &path.display().to_string(), settings)
    }

    /// Loads a model from memory; its external data files are looked up in `folder`.
    pub fn from_bytes(
        library: &Library,
        bytes: &[u8],
        folder: &Path,
        settings: &SessionSettings,
    ) -> Result<Self, RuntimeError> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Self::build(library, &Source::Bytes(bytes, folder), &format!("the model of {}", folder.display()), settings)
    }

    fn build(
        library: &Library,
        source: &Source<'_>,
        name: &str,
        settings: &SessionSettings,
    ) -> Result<Self, RuntimeError> {
        match settings.device {
            Device::Cpu => Self::on_cpu(library, source, name, settings),
            Device::Cuda(number) => Self::on_cuda(library, source, name, settings, number),
            Device::Auto => {
                let reason = match Self::on_cuda(library, source, name, settings, 0) {
                    Err(RuntimeError::CudaMissing { .. }) => "this ONNX Runtime has no CUDA provider".to_string(),
                    Err(RuntimeError::CudaUnusable { reason, .. }) => format!("CUDA cannot be used: {reason}"),
                    other => return other,
                };
                Ok(Self { why: Some(reason), ..Self::on_cpu(library, source, name, settings)? })
            }
        }
    }

    fn on_cpu(
        library: &Library,
        source: &Source<'_>,
        name: &str,
        settings: &SessionSettings,
    ) -> Result<Self, RuntimeError> {
        let load = |error: ort::Error| RuntimeError::from_load(name, error.message());
        let builder = || builder(library, source, settings);
        let inner = match commit(builder().map_err(load)?, source) {
            Err(error) if lies_elsewhere(&error) => {
                let builder = with_linked_data(builder().map_err(load)?, source)?;
                commit(builder, source)
            }
            committed => committed,
        };
        Self::finish(inner.map_err(load)?, Device::Cpu, name)
    }

    fn on_cuda(
        library: &Library,
        source: &Source<'_>,
        name: &str,
        settings: &SessionSettings,
        number: u32,
    ) -> Result<Self, RuntimeError> {
        if !library.has_cuda() {
            return Err(RuntimeError::CudaMissing { path: library.path().into(), version: library.version().into() });
        }
        library.preload_cuda();
        let unusable = |reason: String| RuntimeError::CudaUnusable { device: number, reason };
        let provider = ort::ep::CUDA::default()
            .with_device_id(i32::try_from(number).unwrap_or(i32::MAX))
            .with_tf32(settings.tf32)
            .build()
            .error_on_failure();
        let builder =
            builder(library, source, settings).map_err(|error| RuntimeError::from_load(name, error.message()))?;
        let builder =
            builder.with_execution_providers([provider]).map_err(|error| unusable(one_line(error.message())))?;
        let inner = match commit(builder.clone(), source) {
            Err(error) if lies_elsewhere(&error) => commit(with_linked_data(builder, source)?, source),
            committed => committed,
        };
        let inner = inner.map_err(|error| {
            let message = error.message();
            let of_cuda = ["CUDA", "cuda", "CUBLAS", "CUDNN"].iter().any(|word| message.contains(word));
            if of_cuda { unusable(one_line(message)) } else { RuntimeError::from_load(name, message) }
        })?;
        let session = Self::finish(inner, Device::Cuda(number), name)?;
        let products = session.placement.matrix_products();
        if !products.is_empty() && !products.contains_key("CUDAExecutionProvider") {
            return Err(unusable(format!("it took none of the matrix products (they are on {})", session.placement)));
        }
        Ok(session)
    }

    fn finish(inner: ort::session::Session, device: Device, name: &str) -> Result<Self, RuntimeError> {
        let placement = Placement::of(&inner).map_err(|error| RuntimeError::from_load(name, error.message()))?;
        let inputs = inner.inputs().iter().map(describe).collect();
        let outputs = inner.outputs().iter().map(describe).collect();
        Ok(Self { inner, inputs, outputs, device, why: None, placement })
    }

    /// Inputs of the model, in its order.
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// Outputs of the model, in its order.
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// Device that the session runs on; never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.device
    }

    /// With [`Device::Auto`]: why it does not run on CUDA.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Which execution provider runs each operation, as ONNX Runtime recorded it.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The execution providers that run the matrix products, each with its count:
    /// `CPUExecutionProvider (48 matrix products)`.
    pub fn provider_of_matrix_products(&self) -> String {
        self.placement.to_string()
    }

    /// Runs the model and returns the named outputs in that order, as float32.
    pub fn run(
        &mut self,
        inputs: &[(&str, InputTensor<'_>)],
        outputs: &[&str],
    ) -> Result<Vec<ArrayD<f32>>, RuntimeError> {
        let mut arrays = Vec::with_capacity(outputs.len());
        self.run_each(inputs, outputs, |_, shape, values| {
            arrays.push(ArrayD::from_shape_vec(IxDyn(shape), values.to_vec()));
        })?;
        let shapes = |error: ndarray::ShapeError| RuntimeError::Run { reason: error.to_string() };
        arrays.into_iter().collect::<Result<_, _>>().map_err(shapes)
    }

    /// Runs the model and passes on each named output once, without a copy where it is float32: its index in `outputs`, its
    /// shape, its elements in row-major order.
    pub fn run_each(
        &mut self,
        inputs: &[(&str, InputTensor<'_>)],
        outputs: &[&str],
        mut take: impl FnMut(usize, &[usize], &[f32]),
    ) -> Result<(), RuntimeError> {
        for name in outputs {
            if !self.outputs.iter().any(|output| output.name == **name) {
                return Err(RuntimeError::Output { name: (*name).into(), found: "missing".into() });
            }
        }
        let tokens = extent_of_tokens(inputs);
        let failed = |error: ort::Error| RuntimeError::from_run(error.message(), tokens);
        let fill = self.rows_to_fill(inputs);
        // An input with as many points as the model accepts rows: its outputs have as many, and all of them count. One
        // whose rows the model fixes (an empty past) holds no points.
        let points = |fill: &Fill| {
            let free = inputs.iter().filter(|(name, _)| self.fixed_rows(name).is_none());
            free.into_iter().any(|(_, tensor)| tensor.shape().first() == Some(&fill.wanted))
        };
        let cut = fill.filter(|fill| !points(fill));
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            // A one-element flag has no rows, though a batch may have one row too.
            let fill = fill.filter(|fill| self.fixed_rows(name).is_none_or(|rows| rows == fill.wanted));
            values.push((Cow::Borrowed(*name), tensor.value(fill).map_err(failed)?));
        }
        let mut selected = OutputSelector::no_default();
        for name in outputs {
            selected = selected.with(*name);
        }
        let options = RunOptions::new().map_err(failed)?.with_outputs(selected);
        let results = self.inner.run_with_options(values, &options).map_err(failed)?;
        for (index, name) in outputs.iter().enumerate() {
            let (mut shape, values) = floats(&results[index], name)?;
            let mut values = &*values;
            if let Some(Fill { rows, wanted }) = cut.filter(|fill| shape.first() == Some(&fill.wanted)) {
                shape[0] = rows;
                values = &values[..values.len() / wanted * rows];
            }
            take(index, &shape, values);
        }
        Ok(())
    }

    /// The length of the first axis of an input, where the model fixes it.
    fn fixed_rows(&self, name: &str) -> Option<usize> {
        let input = self.inputs.iter().find(|input| input.name == name)?;
        match input.shape.as_deref()?.first()? {
            Dimension::Fixed(rows) => Some(*rows),
            _ => None,
        }
    }

    /// Where the model requires batches of more rows than are given: how many are missing.
    fn rows_to_fill(&self, inputs: &[(&str, InputTensor<'_>)]) -> Option<Fill> {
        let wanted = FixedSizes::of(&self.inputs).rows?;
        let (_, tokens) = inputs.iter().find(|(name, _)| crate::onnx::token_input(name).is_some())?;
        let rows = tokens.shape().first().copied().filter(|rows| *rows > 0 && *rows < wanted)?;
        Some(Fill { rows, wanted })
    }
}

/// Copies of the last row that bring a batch up to the size the model requires.
#[derive(Debug, Clone, Copy)]
struct Fill {
    rows: usize,
    wanted: usize,
}

fn builder(library: &Library, source: &Source<'_>, settings: &SessionSettings) -> ort::Result<SessionBuilder> {
    let level = if settings.unoptimized { GraphOptimizationLevel::Disable } else { GraphOptimizationLevel::All };
    let mut builder = ort::session::Session::builder(&library.environment)?
        .with_auto_device(AutoDevicePolicy::PreferCPU)?
        .with_optimization_level(level)?
        .with_log_level(ort::logging::LogLevel::Warning)?
        // Every batch has another shape: plans that are cached per shape only cost memory.
        .with_memory_pattern(false)?
        .with_config_entry("session.record_ep_graph_assignment_info", "1")?;
    if let Some(threads) = settings.threads {
        builder = builder.with_intra_threads(threads)?;
    }
    if let Source::Bytes(_, folder) = source {
        let folder = folder.to_string_lossy();
        builder = builder.with_config_entry("session.model_external_initializers_file_folder_path", folder)?;
    }
    if settings.keep_dropout {
        builder = builder.with_disabled_optimizers("EliminateDropout")?;
    }
    if let Some(path) = &settings.profile {
        builder = builder.with_profiling(path)?;
    }
    Ok(builder)
}

/// Whether ONNX Runtime refused external data because of where a link leads: it assumes that a model from memory is in the
/// folder it was given, and the cache of Hugging Face keeps all files elsewhere, behind links.
fn lies_elsewhere(error: &ort::Error) -> bool {
    error.message().contains("escapes model directory")
}

/// Passes the external data of a model from memory to ONNX Runtime, read from the targets of links.
fn with_linked_data(builder: SessionBuilder, source: &Source<'_>) -> Result<SessionBuilder, RuntimeError> {
    let Source::Bytes(bytes, folder) = source else { return Ok(builder) };
    let model = Model::from_bytes(folder.join("model.onnx"), bytes.to_vec())?;
    let load = |message: &str| RuntimeError::from_load(&format!("the model of {}", folder.display()), message);
    model.external_files().iter().try_fold(builder, |builder, file| {
        let data: Arc<[u8]> = Arc::from(file.bytes());
        builder.with_external_initializer_file_in_memory(&file.location, data).map_err(|error| load(error.message()))
    })
}

fn commit(mut builder: SessionBuilder, source: &Source<'_>) -> ort::Result<ort::session::Session> {
    match source {
        Source::File(path) => builder.commit_from_file(path),
        Source::Bytes(bytes, _) => builder.commit_from_memory(bytes),
    }
}

impl InputTensor<'_> {
    /// Shape of the input.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::I64 { shape, .. }
            | Self::I32 { shape, .. }
            | Self::F32 { shape, .. }
            | Self::F16 { shape, .. }
            | Self::Bool { shape, .. } => shape,
        }
    }

    fn value(&self, fill: Option<Fill>) -> ort::Result<SessionInputValue<'_>> {
        if let Some(fill) = fill.filter(|fill| self.shape().first() == Some(&fill.rows)) {
            return self.filled(fill);
        }
        Ok(match *self {
            Self::I64 { shape, data } => TensorRef::from_array_view((shape, data))?.into(),
            Self::I32 { shape, data } => TensorRef::from_array_view((shape, data))?.into(),
            Self::F32 { shape, data } => TensorRef::from_array_view((shape, data))?.into(),
            Self::F16 { shape, data } => TensorRef::from_array_view((shape, data))?.into(),
            Self::Bool { shape, data } => TensorRef::from_array_view((shape, data))?.into(),
        })
    }
}

impl InputTensor<'_> {
    /// The input with copies of the last row appended.
    fn filled(&self, Fill { rows, wanted }: Fill) -> ort::Result<SessionInputValue<'static>> {
        let mut shape = self.shape().to_vec();
        shape[0] = wanted;
        Ok(match *self {
            Self::I64 { data, .. } => Tensor::from_array((shape, filled(data, rows, wanted)))?.into(),
            Self::I32 { data, .. } => Tensor::from_array((shape, filled(data, rows, wanted)))?.into(),
            Self::F32 { data, .. } => Tensor::from_array((shape, filled(data, rows, wanted)))?.into(),
            Self::F16 { data, .. } => Tensor::from_array((shape, filled(data, rows, wanted)))?.into(),
            Self::Bool { data, .. } => Tensor::from_array((shape, filled(data, rows, wanted)))?.into(),
        })
    }
}

/// The largest token id and the length of the rows, to explain an index that lies outside a table.
fn extent_of_tokens(inputs: &[(&str, InputTensor<'_>)]) -> Option<(i64, usize)> {
    let (_, tensor) = inputs.iter().find(|(name, _)| crate::onnx::is_ids(name))?;
    let largest = match tensor {
        InputTensor::I64 { data, .. } => data.iter().copied().max(),
        InputTensor::I32 { data, .. } => data.iter().copied().max().map(i64::from),
        _ => None,
    }?;
    Some((largest, tensor.shape().last().copied().unwrap_or(0)))
}

/// Shape and elements of an output, as float32.
fn floats<'v>(value: &'v DynValue, name: &str) -> Result<(Vec<usize>, Cow<'v, [f32]>), RuntimeError> {
    let wrong = |found: String| RuntimeError::Output { name: name.into(), found };
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(wrong("no tensor".into()));
    };
    let shape: Vec<usize> = shape.iter().map(|n| usize::try_from(*n).unwrap_or(0)).collect();
    let unreadable = |error: ort::Error| wrong(one_line(error.message()));
    let values: Cow<'v, [f32]> = match ty {
        TensorElementType::Float32 => Cow::Borrowed(value.try_extract_tensor::<f32>().map_err(unreadable)?.1),
        TensorElementType::Float64 => {
            value.try_extract_tensor::<f64>().map_err(unreadable)?.1.iter().map(|v| *v as f32).collect()
        }
        TensorElementType::Float16 => {
            value.try_extract_tensor::<f16>().map_err(unreadable)?.1.iter().map(|v| v.to_f32()).collect()
        }
        TensorElementType::Bfloat16 => {
            value.try_extract_tensor::<bf16>().map_err(unreadable)?.1.iter().map(|v| v.to_f32()).collect()
        }
        other => return Err(wrong(format!("a tensor of {other}"))),
    };
    Ok((shape, values))
}

fn describe(outlet: &Outlet) -> ValueInfo {
    let name = outlet.name().to_string();
    let ValueType::Tensor { ty, shape, dimension_symbols } = outlet.dtype() else {
        return ValueInfo { name, data_type: None, shape: None };
    };
    let dimensions = shape.iter().enumerate().map(|(i, size)| match usize::try_from(*size) {
        Ok(size) => Dimension::Fixed(size),
        Err(_) => match dimension_symbols.get(i).map(String::as_str) {
            Some(symbol) if !symbol.is_empty() => Dimension::Named(symbol.into()),
            _ => Dimension::Unknown,
        },
    });
    ValueInfo { name, data_type: Some(data_type(*ty)), shape: Some(dimensions.collect()) }
}

fn data_type(ty: TensorElementType) -> DataType {
    match ty {
        TensorElementType::Float32 => DataType::Float,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::String => DataType::String,
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Float16 => DataType::Float16,
        TensorElementType::Float64 => DataType::Double,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Bfloat16 => DataType::BFloat16,
        _ => DataType::Other(0),
    }
}
