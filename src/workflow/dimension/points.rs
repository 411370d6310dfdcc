//! Points: the layers of a store, a `.npy` file, or the matrices of a safetensors file. Files are memory-mapped: points are
//! read in place.

use std::path::{Path, PathBuf};

use memmap2::Mmap;
use ndarray::{Array2, ArrayView2, Ix2};
use ndarray_npy::{ViewNpyError, ViewNpyExt};

use crate::activations::Store;
use crate::checkpoint::{Checkpoint, ElementType};
use crate::files::{FileError, open_file, read_here_and_there, sha256_file, sha256_in_parts};
use crate::hint::Hint;
use crate::progress::{Event, Observer};
use crate::workflow::WorkflowError;

/// Number of bytes from which reading takes long enough to report progress.
const LONG: usize = 1 << 29;

/// The source of the points.
pub enum Source {
    Store(Box<Store>),
    Npy { path: PathBuf, file: Mmap },
    Tensors { path: PathBuf, checkpoint: Box<Checkpoint>, names: Vec<String> },
}

/// Points `[points, columns]` of either type.
pub enum Points<'a> {
    Single(ArrayView2<'a, f32>),
    Double(ArrayView2<'a, f64>),
}

impl Source {
    /// Opens a folder or a file; `tensor` names one matrix of a safetensors file.
    pub fn open(path: &Path, tensor: Option<&str>) -> Result<Self, WorkflowError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if tensor.is_some() && extension != "safetensors" {
            return Err(refused(format!(
                "{} names a tensor of a .safetensors file, and {} is none",
                Hint::Tensor,
                path.display()
            )));
        }
        if path.is_dir() {
            if !path.join("manifest.json").exists() && path.join("store").join("manifest.json").exists() {
                return Err(refused(format!(
                    "{} holds no activations itself; name its store: {}",
                    path.display(),
                    path.join("store").display()
                )));
            }
            return Ok(Self::Store(Box::new(Store::open(path)?)));
        }
        if extension == "safetensors" {
            return Self::tensors(path, tensor);
        }
        let file = open_file(path)?;
        if file.metadata().map_err(FileError::new("read", path))?.len() == 0 {
            return Err(refused(format!(
                "{} is empty; save it with numpy.save as a float32 or float64 array of shape [points, columns]",
                path.display()
            )));
        }
        // SAFETY: as with every mapped file, it must not be truncated while it is read.
        let file = unsafe { Mmap::map(&file) }.map_err(FileError::new("map", path))?;
        Ok(Self::Npy { path: path.into(), file })
    }

    fn tensors(path: &Path, tensor: Option<&str>) -> Result<Self, WorkflowError> {
        let checkpoint = Checkpoint::open_file(path)?;
        let matrices = checkpoint
            .tensors()
            .iter()
            .filter(|tensor| tensor.shape.len() == 2 && !matches!(tensor.element_type, ElementType::Other(_)));
        let mut names: Vec<String> = matrices.map(|tensor| tensor.name.clone()).collect();
        if let Some(wanted) = tensor {
            if names.iter().all(|name| name != wanted) {
                return Err(refused(format!(
                    "{} has no matrix of floats called `{wanted}`; it has {}",
                    path.display(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                )));
            }
            names = vec![wanted.to_owned()];
        }
        if names.is_empty() {
            return Err(refused(format!(
                "{} has no matrix of floats; save points as tensors of shape [points, columns]",
                path.display()
            )));
        }
        Ok(Self::Tensors { path: path.into(), checkpoint: Box::new(checkpoint), names })
    }

    /// SHA-256 of the file, or of the manifest of a store, in hex. This reads the file sequentially; later reads are random
    /// accesses.
    pub fn sha256(&self, observer: &dyn Observer) -> Result<String, WorkflowError> {
        match self {
            Self::Store(store) => Ok(sha256_file(&store.path().join("manifest.json"))?),
            Self::Npy { file, .. } => {
                let hash = hashed(file, observer)?;
                read_here_and_there(file);
                Ok(hash)
            }
            Self::Tensors { checkpoint, .. } => {
                let file = &checkpoint.files()[0];
                let hash = hashed(file.bytes(), observer)?;
                file.read_here_and_there();
                Ok(hash)
            }
        }
    }

    /// Names of the sets of points, in order.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Store(store) => (0..store.hidden_states()).map(|index| index.to_string()).collect(),
            Self::Npy { path, .. } => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                vec![name.unwrap_or_else(|| path.display().to_string())]
            }
            Self::Tensors { names, .. } => names.clone(),
        }
    }

    /// Passes one set of points to a function.
    pub fn with<R>(
        &self,
        index: usize,
        use_points: impl FnOnce(Points<'_>) -> Result<R, WorkflowError>,
    ) -> Result<R, WorkflowError> {
        match self {
            Self::Store(store) => use_points(Points::Single(store.mapped_layer(index)?.view())),
            Self::Npy { path, file } => match ArrayView2::<f32>::view_npy(file) {
                Ok(points) => use_points(Points::Single(points)),
                Err(ViewNpyError::WrongDescriptor(_)) => match ArrayView2::<f64>::view_npy(file) {
                    Ok(points) => use_points(Points::Double(points)),
                    Err(error) => match half_precision(file) {
                        Some(points) => use_points(Points::Single(points.view())),
                        None => Err(unreadable(path, &error)),
                    },
                },
                Err(error) => Err(unreadable(path, &error)),
            },
            Self::Tensors { path, checkpoint, names } => {
                let tensor = checkpoint.tensor(&names[index]).expect("it was listed");
                let shape = Ix2(tensor.shape[0], tensor.shape[1]);
                let bytes = checkpoint.bytes(&tensor.name)?;
                // Other types and misaligned values are copied.
                match (&tensor.element_type, bytemuck::try_cast_slice::<u8, f32>(bytes)) {
                    (ElementType::F32, Ok(values)) => use_points(Points::Single(matrix(path, shape, values)?)),
                    (ElementType::F64, _) => {
                        let values: Vec<f64> =
                            bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                        use_points(Points::Double(matrix(path, shape, &values)?))
                    }
                    _ => {
                        let values = checkpoint.to_f32(&tensor.name)?;
                        if values.len() != shape[0] * shape[1] {
                            return Err(refused(format!(
                                "{}: tensor {} is not read as a matrix",
                                path.display(),
                                tensor.name
                            )));
                        }
                        use_points(Points::Single(matrix(path, shape, &values)?))
                    }
                }
            }
        }
    }
}

/// SHA-256 of bytes, with progress where it takes seconds.
fn hashed(bytes: &[u8], observer: &dyn Observer) -> Result<String, WorkflowError> {
    let megabytes = |bytes: u64| bytes / 1_000_000;
    let long = bytes.len() > LONG;
    if long {
        let total = Some(megabytes(bytes.len() as u64));
        observer.observe(Event::Begin { stage: "reading points", total, done: 0, unit: "MB" });
    }
    let hash = sha256_in_parts(bytes, |done| {
        if long {
            observer.observe(Event::Advance { done: megabytes(done), detail: "" });
        }
        observer.check()
    })?;
    if long {
        observer.observe(Event::Advance { done: megabytes(bytes.len() as u64), detail: "" });
        observer.observe(Event::End);
    }
    Ok(hash)
}

/// The points of a float16 `.npy` file as float32, which represents them exactly; `None` for any other file.
fn half_precision(file: &[u8]) -> Option<Array2<f32>> {
    // The reader of the format does not support float16, but integers of the same size: the header is changed to these.
    let (found, other) = (b"'descr': '<f2'", b"'descr': '<u2'");
    let header = file.get(..file.len().min(1 << 16))?;
    let at = header.windows(found.len()).position(|bytes| bytes == found)?;
    let mut copy = file.to_vec();
    copy[at..at + other.len()].copy_from_slice(other);
    let bits = ArrayView2::<u16>::view_npy(&copy).ok()?;
    Some(bits.mapv(|bits| half::f16::from_bits(bits).to_f32()))
}

fn unreadable(path: &Path, error: &ViewNpyError) -> WorkflowError {
    let cure = "save it with numpy.save as a float32 or float64 array of shape [points, columns]";
    match error {
        ViewNpyError::WrongDescriptor(found) => {
            refused(format!("{} holds values of type {found}, not float32, float64 or float16; {cure}", path.display()))
        }
        ViewNpyError::NonNativeEndian => {
            refused(format!("{} holds its numbers with the other byte order (big-endian); {cure}", path.display()))
        }
        ViewNpyError::WrongNdim(expected, found) => {
            let expected = expected.unwrap_or(2);
            refused(format!("{} has {found} axes instead of {expected}; {cure}", path.display()))
        }
        other => refused(format!("{} is not a .npy file that can be read ({other}); {cure}", path.display())),
    }
}

fn matrix<'a, T>(path: &Path, shape: Ix2, values: &'a [T]) -> Result<ArrayView2<'a, T>, WorkflowError> {
    ArrayView2::from_shape(shape, values)
        .map_err(|error| refused(format!("{}: {error}; save it again", path.display())))
}

fn refused(text: String) -> WorkflowError {
    WorkflowError::Points(text)
}
