//! Where libtorch computes, and the proof that it can.

use std::path::{Path, PathBuf};

use super::error::TrainError;
use crate::runtime::Device;

/// Turns the requested device into one of libtorch. `cuda` is an error where libtorch sees none; `auto` uses CUDA if available.
pub fn open(device: Device) -> Result<tch::Device, TrainError> {
    match device {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Auto if cuda_devices().is_ok_and(|count| count > 0) => Ok(tch::Device::Cuda(0)),
        Device::Auto => Ok(tch::Device::Cpu),
        Device::Cuda(number) => {
            let count = cuda_devices().map_err(|reason| TrainError::NoCuda { reason })?;
            match count {
                0 => Err(TrainError::NoCuda {
                    reason: "libtorch sees no CUDA device (driver missing or too old?)".into(),
                }),
                count if i64::from(number) >= count => Err(TrainError::NoCuda {
                    reason: format!("libtorch sees {count} CUDA device(s), and number {number} is none of them"),
                }),
                _ => Ok(tch::Device::Cuda(number as usize)),
            }
        }
    }
}

/// How many CUDA devices libtorch sees, or why it cannot know.
///
/// The linker drops `libtorch_cuda` because no symbol of it is referenced here, and libtorch then reports that there is no
/// CUDA. So the library is loaded first.
pub fn cuda_devices() -> Result<i64, String> {
    load_cuda_library()?;
    Ok(if tch::Cuda::is_available() { tch::Cuda::device_count() } else { 0 })
}

fn load_cuda_library() -> Result<(), String> {
    static LOADED: std::sync::OnceLock<Result<(), String>> = std::sync::OnceLock::new();
    LOADED
        .get_or_init(|| {
            let folder = libtorch_folder().ok_or("cannot tell where libtorch was loaded from")?;
            let path = folder.join("libtorch_cuda.so");
            if !path.exists() {
                return Err(format!("this libtorch is built without CUDA: {} is not there", path.display()));
            }
            load_for_ever(&path)
        })
        .clone()
}

fn load_for_ever(path: &Path) -> Result<(), String> {
    // SAFETY: the library is the other half of libtorch, of the same build as the one in use (it lies beside it). Its
    // initialisers register kernels and have no other precondition. It is never unloaded.
    match unsafe { libloading::Library::new(path) } {
        Ok(library) => {
            std::mem::forget(library);
            Ok(())
        }
        Err(error) => Err(format!("cannot load {}: {error}", path.display())),
    }
}

/// The folder of the `libtorch_cpu` that this process has loaded.
#[cfg(target_os = "linux")]
pub fn libtorch_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    let path = &line[line.find('/')?..];
    Path::new(path).parent().map(Path::to_path_buf)
}

/// The folder of libtorch, as configured at build time.
#[cfg(not(target_os = "linux"))]
pub fn libtorch_folder() -> Option<PathBuf> {
    std::env::var_os("LIBTORCH").map(|folder| PathBuf::from(folder).join("lib"))
}
