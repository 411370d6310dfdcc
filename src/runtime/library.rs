//! Finds the ONNX Runtime library, checks it, and loads it once per process.
//!
//! The checks come before the library is handed to `ort`, which answers a wrong library with a panic.

use std::ffi::CStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;

use super::RuntimeError;
use crate::hint::Hint;

/// The version that the set-up script installs.
pub const RECOMMENDED: &str = "1.30.0";

/// The loaded ONNX Runtime.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    version: String,
    how: Found,
    providers: Vec<String>,
    pub(super) environment: Environment,
}

/// How the library was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Named explicitly by the caller.
    Named,
    /// Named by the environment variable `ORT_DYLIB_PATH`.
    Environment,
    /// Beside the running binary, or in `lib/` there.
    BesideBinary,
    /// In `.venv/onnxruntime` of the working folder or of a folder above the binary.
    VirtualEnvironment,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named => return Hint::OrtLib.fmt(f),
            Self::Environment => "ORT_DYLIB_PATH",
            Self::BesideBinary => "beside the binary",
            Self::VirtualEnvironment => ".venv/onnxruntime",
        })
    }
}

/// The switch of ONNX Runtime's telemetry that works: it is read while the library is loaded, when its own interface cannot
/// be called yet.
const TELEMETRY_SWITCH: &str = "ORT_DISABLE_TELEMETRY";

/// Keeps ONNX Runtime from reporting to its makers: the library of the wheel looks up a host on the internet after some
/// seconds, and leaves files in the temporary folder, the user's cache and the working folder. Programs call this first;
/// otherwise [`Library::load`] does.
///
/// # Safety
/// No other thread may read or write the environment meanwhile, other than through `std::env`.
pub unsafe fn disable_telemetry() {
    // SAFETY: the caller guarantees it.
    unsafe { std::env::set_var(TELEMETRY_SWITCH, "1") };
}

static LOADED: Mutex<Option<&'static Library>> = Mutex::new(None);

impl Library {
    /// Finds and loads ONNX Runtime. Search order: `explicit` (a file or the folder that holds it), the
    /// environment variable `ORT_DYLIB_PATH`, beside the binary, `.venv/onnxruntime`. A library that was named is used
    /// or is an error; there is no second choice. Later calls return the library of the first one.
    pub fn load(explicit: Option<&Path>) -> Result<&'static Library, RuntimeError> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = *loaded {
            return match explicit.map(|path| named(path, Found::Named)).transpose()? {
                Some(wanted) if canonical(&wanted) != library.path => {
                    Err(RuntimeError::AlreadyLoaded { loaded: library.path.clone(), wanted })
                }
                _ => Ok(library),
            };
        }
        if std::env::var_os(TELEMETRY_SWITCH).is_none_or(|value| value != "1") {
            // SAFETY: gelora's own program has done it before there were threads. In another program, threads that read the
            // environment through C at this very moment could be disturbed; that program can call `disable_telemetry` first.
            unsafe { disable_telemetry() };
        }
        let environment = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty()).map(PathBuf::from);
        let (path, how) = find(explicit, environment.as_deref(), &unnamed_places())?;
        let library: &'static Library = Box::leak(Box::new(Self::open(&path, how)?));
        *loaded = Some(library);
        Ok(library)
    }

    fn open(path: &Path, how: Found) -> Result<Self, RuntimeError> {
        let path = canonical(path);
        let version = check(&path)?;
        let not_loadable = |reason: String| RuntimeError::NotALibrary { path: path.clone(), reason };
        let builder = ort::init_from(&path).map_err(|error| not_loadable(error.to_string()))?;
        let environment = builder
            .with_name("gelora")
            .with_telemetry(false)
            .with_logger(Arc::new(log))
            .build()
            .map_err(|error| not_loadable(error.to_string()))?;
        environment.set_log_level(LogLevel::Warning);
        let providers = available_providers().map_err(|error| not_loadable(error.to_string()))?;
        Ok(Self { path, version, how, providers, environment })
    }

    /// Path of the library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Version of the library, e.g. `1.30.0`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// How the library was found.
    pub fn how_found(&self) -> Found {
        self.how
    }

    /// Execution providers of this build, e.g. `CUDAExecutionProvider`. A provider that is built in does not necessarily
    /// work on this machine.
    pub fn providers(&self) -> &[String] {
        &self.providers
    }

    /// Whether this build has the CUDA provider.
    pub fn has_cuda(&self) -> bool {
        self.providers.iter().any(|name| name == "CUDAExecutionProvider")
    }

    /// Examines a library without loading it for use: returns its version, or what is wrong with it.
    pub fn probe(path: &Path) -> Result<String, RuntimeError> {
        check(path)
    }

    /// Loads the CUDA libraries that `pip install onnxruntime-gpu[cuda,cudnn]` or PyTorch put beside ONNX Runtime, so
    /// that nobody has to set `LD_LIBRARY_PATH`. Where there are none, the system's are used.
    pub(super) fn preload_cuda(&self) {
        // …/site-packages/onnxruntime/capi/libonnxruntime.so.X
        let Some(packages) = self.path.ancestors().nth(3) else { return };
        let mut folders: Vec<PathBuf> =
            subfolders(&packages.join("nvidia")).into_iter().map(|p| p.join("lib")).collect();
        folders.extend(self.path.parent().map(Path::to_path_buf));
        for name in ort::ep::cuda::CUDA_DYLIBS.iter().chain(ort::ep::cuda::CUDNN_DYLIBS) {
            if let Some(path) = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
                && let Err(error) = ort::util::preload_dylib(&path)
            {
                tracing::debug!("{} cannot be preloaded: {error}", path.display());
            }
        }
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn log(level: LogLevel, category: &str, _id: &str, place: &str, message: &str) {
    // Failures are also returned as errors; the log gives the details.
    tracing::debug!(target: "onnxruntime", ?level, category, place, "{message}");
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// Folders to search when no library was named, in order.
fn unnamed_places() -> Vec<(PathBuf, Found)> {
    let mut places = Vec::new();
    let binary = std::env::current_exe().ok();
    let binary = binary.as_deref().map(canonical);
    if let Some(folder) = binary.as_deref().and_then(Path::parent) {
        places.push((folder.to_path_buf(), Found::BesideBinary));
        places.push((folder.join("lib"), Found::BesideBinary));
    }
    let above = binary.iter().flat_map(|binary| binary.ancestors().skip(1).map(Path::to_path_buf));
    for folder in std::env::current_dir().ok().into_iter().chain(above) {
        let place = (folder.join(".venv").join("onnxruntime"), Found::VirtualEnvironment);
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

pub(super) fn find(
    explicit: Option<&Path>,
    environment: Option<&Path>,
    places: &[(PathBuf, Found)],
) -> Result<(PathBuf, Found), RuntimeError> {
    if let Some(path) = explicit {
        return Ok((named(path, Found::Named)?, Found::Named));
    }
    if let Some(path) = environment {
        return Ok((named(path, Found::Environment)?, Found::Environment));
    }
    let found = places.iter().find_map(|(folder, how)| Some((in_folder(folder)?, *how)));
    found.ok_or_else(|| RuntimeError::LibraryMissing { looked: places.iter().map(|(path, _)| path.clone()).collect() })
}

fn named(path: &Path, how: Found) -> Result<PathBuf, RuntimeError> {
    let missing = || RuntimeError::NamedLibraryMissing { path: path.into(), how };
    if path.is_dir() {
        in_folder(path).ok_or_else(missing)
    } else if path.exists() {
        Ok(path.into())
    } else {
        Err(missing())
    }
}

/// The library in a folder: the plain name, or the highest version.
fn in_folder(folder: &Path) -> Option<PathBuf> {
    let plain = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let path = folder.join(&plain);
    if path.is_file() {
        return Some(path);
    }
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let versioned = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name.strip_prefix(&plain)?.strip_prefix('.')?;
        let version: Vec<u32> = version.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        Some((version, entry.path()))
    });
    versioned.max().map(|(_, path)| path)
}

/// Loads the file, queries its version and the interface gelora needs, and unloads it again.
fn check(path: &Path) -> Result<String, RuntimeError> {
    let unusable = |reason: String| RuntimeError::NotALibrary { path: path.into(), reason };
    let kind = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?;
    if !kind.is_file() {
        // A pipe or a device would make the loader wait for ever.
        return Err(unusable("it is not a regular file".into()));
    }
    // SAFETY: loading a library runs its constructors; this one was named by the user or is where the setup puts it.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|error| unusable(reason_of(&error).trim_start_matches(&*format!("{}: ", path.display())).into()))?;
    let other = || RuntimeError::NotOnnxRuntime { path: path.into() };
    type BaseGetter = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
    // SAFETY: a library that exports this symbol gives it this signature, which ONNX Runtime has never changed.
    let base = unsafe { library.get::<BaseGetter>(b"OrtGetApiBase") }.map_err(|_| other())?;
    // SAFETY: as above.
    let base = unsafe { base() };
    if base.is_null() {
        return Err(other());
    }
    // SAFETY: the pointer is not null and refers to a static table of the library, which is still loaded.
    let version = unsafe { ((*base).GetVersionString)() };
    if version.is_null() {
        return Err(other());
    }
    // SAFETY: a static string of the library, which is still loaded.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy().into_owned();
    let needed = ort::MINOR_VERSION;
    let too_old = || RuntimeError::LibraryTooOld { path: path.into(), found: version.clone(), needed };
    if !is_new_enough(&version, needed) {
        return Err(too_old());
    }
    // SAFETY: as above; requesting a version that is not supported returns null.
    let api = unsafe { ((*base).GetApi)(ort::sys::ORT_API_VERSION) };
    if api.is_null() {
        return Err(too_old());
    }
    Ok(version)
}

/// The loader's own message, which libloading keeps as the source of its error.
fn reason_of(error: &libloading::Error) -> String {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    reason
}

fn is_new_enough(version: &str, needed: u32) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(1), Some(minor)) => minor >= needed,
        (Some(major), _) => major > 1,
        _ => false,
    }
}

fn available_providers() -> ort::Result<Vec<String>> {
    let mut names = std::ptr::null_mut();
    let mut count = 0;
    // SAFETY: both pointers are valid for writing.
    unsafe { ort::Error::result_from_status((ort::api().GetAvailableProviders)(&mut names, &mut count)) }?;
    let length = if names.is_null() { 0 } else { usize::try_from(count).unwrap_or(0) };
    // SAFETY: ONNX Runtime wrote `count` pointers to strings that end with NUL.
    let providers =
        unsafe { (0..length).map(|i| CStr::from_ptr(*names.add(i)).to_string_lossy().into_owned()).collect() };
    if !names.is_null() {
        // SAFETY: the list that was returned above, freed once.
        unsafe { ort::Error::result_from_status((ort::api().ReleaseAvailableProviders)(names, count)) }?;
    }
    Ok(providers)
}

/// Displays a list of paths.
pub(super) struct Looked<'a>(pub &'a [PathBuf]);

impl fmt::Display for Looked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The folders above the binary are many and say nothing new.
        for (i, path) in self.0.iter().take(3).enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { ", " }, path.display())?;
        }
        if self.0.len() > 3 { write!(f, " and {} folders above", self.0.len() - 3) } else { Ok(()) }
    }
}
