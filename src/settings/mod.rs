//! What a user can set: one type per subject, with defaults and ranges. The keys of a configuration and the options
//! of the command line are both derived from it.
//!
//! In a configuration (a TOML file, checked before anything starts) every key has a type, a range and a default; an unknown
//! key is an error that names the nearest one. Paths are relative to the file. `examples/` has a commented configuration per
//! task.

mod class_weights;
mod error;
mod plan;
#[cfg(test)]
mod tests;
mod train;

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use class_weights::ClassWeights;
pub use error::ConfigError;
pub use plan::{
    DimensionOptions, ExtractionOptions, MiniBatchOptions, PlanSettings, Projection, RankOptions, ScaleSetting,
    above_zero, subsamples,
};
pub use train::{Batching, Kernels, Method, Precision, Schedule, TrainSettings};

pub use crate::settings_value::SettingError;
pub use crate::task::DataSettings;

use crate::adapter::Flavour;
use crate::files::read_text;
use crate::runtime::Device;
use crate::settings_value::at_least;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The model to adapt.
    pub model: ModelSettings,
    /// The rows to learn from and to evaluate on.
    pub data: DataSettings,
    /// How activations are made, dimensions estimated and ranks chosen.
    #[serde(default)]
    pub plan: PlanSettings,
    /// How the model is trained.
    #[serde(default)]
    pub train: TrainSettings,
    /// What is written, and where.
    pub output: OutputSettings,
    /// Devices and threads of the computation.
    #[serde(default)]
    pub device: DeviceSettings,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSettings {
    /// Path of a model folder, or of an `.onnx` file.
    pub path: PathBuf,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSettings {
    /// Folder for everything that is written.
    pub folder: PathBuf,
    /// How ranks are written in the adapter folder.
    #[serde(default)]
    pub flavour: Flavour,
}

/// `[device]`. The options `--device`, `--threads` and `--ort-lib` take precedence over it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSettings {
    /// Device on which ONNX Runtime runs the model.
    #[serde(deserialize_with = "device", serialize_with = "device_name")]
    pub inference: Device,
    /// Device on which libtorch trains the model.
    #[serde(deserialize_with = "device", serialize_with = "device_name")]
    pub training: Device,
    /// CPU threads; one per core if not given.
    pub threads: Option<usize>,
    /// Path of the ONNX Runtime library.
    pub ort_lib: Option<PathBuf>,
}

fn device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Device, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

pub(crate) fn device_name<S: Serializer>(device: &Device, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(device)
}

impl Config {
    /// Reads and checks a file, makes its paths relative to the current folder, and checks that the inputs exist.
    ///
    /// # Errors
    /// One line that names the file, the line, the key, what was found and the cure.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path)?;
        let mut config = Config::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for name in config.paths() {
            *name = joined(folder, name);
        }
        files_are_there(path, &text, &config)?;
        Ok(config)
    }

    /// Reads and checks a configuration; its paths are left unchanged, and no other file is examined. `path` is for errors.
    ///
    /// # Errors
    /// Those of [`Config::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| error::explain(path, text, &error))?;
        values(path, text, &config)?;
        Ok(config)
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let always = [&mut self.model.path, &mut self.data.train, &mut self.output.folder];
        let perhaps = [&mut self.data.dev, &mut self.data.test, &mut self.device.ort_lib];
        always.into_iter().chain(perhaps.into_iter().flatten())
    }
}

/// A path relative to a folder, without `folder/..` in it unless the folder is a link.
fn joined(folder: &Path, name: &Path) -> PathBuf {
    let mut path = folder.to_owned();
    for part in name.components() {
        let returns = part == Component::ParentDir
            && matches!(path.components().next_back(), Some(Component::Normal(_)))
            && std::fs::symlink_metadata(&path).is_ok_and(|last| last.is_dir());
        if returns {
            path.pop();
        } else {
            path.push(part);
        }
    }
    path
}

/// Checks every value.
fn values(path: &Path, text: &str, config: &Config) -> Result<(), ConfigError> {
    let refuse = |section: &str, refused: SettingError| ConfigError::of_setting(path, text, section, refused);
    config.data.check().map_err(|refused| refuse("data", refused))?;
    config.plan.check().map_err(|refused| refuse("plan", refused))?;
    config.train.check().map_err(|refused| refuse("train", refused))?;
    if config.train.patience.is_some() && config.data.dev.is_none() {
        let refused = SettingError::new("patience", "needs rows to evaluate on".into(), "name a `dev` file in [data]");
        return Err(refuse("train", refused));
    }
    at_least("threads", config.device.threads.map(|n| n as u64), 1).map_err(|refused| refuse("device", refused))
}

/// Checks that the inputs exist: better now than after hours of work.
fn files_are_there(path: &Path, text: &str, config: &Config) -> Result<(), ConfigError> {
    let inputs = [
        ("model", "path", Some(&config.model.path)),
        ("data", "train", Some(&config.data.train)),
        ("data", "dev", config.data.dev.as_ref()),
        ("data", "test", config.data.test.as_ref()),
        ("device", "ort_lib", config.device.ort_lib.as_ref()),
    ];
    for (section, key, name) in inputs {
        if let Some(name) = name
            && let Err(error) = std::fs::metadata(name)
        {
            let found = format!("is {}, which cannot be opened ({error})", name.display());
            let refused = SettingError::new(key, found, "mend the path; it is relative to the configuration");
            return Err(ConfigError::of_setting(path, text, section, refused));
        }
    }
    Ok(())
}
