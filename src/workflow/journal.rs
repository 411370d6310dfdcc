//! `run.json`: which stages of a run are done, from which inputs, so that nothing is done twice and nothing stale is used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::WorkflowError;
use crate::files::{FileError, sha256, sha256_file, write_json};
use crate::progress::{Event, Observer};

const FORMAT_VERSION: u32 = 1;

/// The journal of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Journal {
    format_version: u32,
    gelora_version: String,
    stages: BTreeMap<String, Stage>,
    /// Results of the run; `None` until it has finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Value>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stage {
    /// Hash of everything the result depends on.
    inputs_sha256: String,
    /// The same inputs, readable.
    inputs: Value,
    done: bool,
    seconds: f64,
    /// Files written, with their SHA-256.
    outputs: Vec<(PathBuf, String)>,
    /// Results of the stage.
    facts: Value,
}

/// Whether an unfinished earlier attempt at a stage had the same inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// It had the same inputs: its files can be resumed.
    Same,
    /// It had other inputs, or there was none.
    None,
}

impl Journal {
    /// Opens the journal of a folder, or starts a new one.
    pub fn open(path: PathBuf) -> Result<Self, WorkflowError> {
        let new = || Self {
            format_version: FORMAT_VERSION,
            gelora_version: env!("CARGO_PKG_VERSION").to_owned(),
            stages: BTreeMap::new(),
            summary: None,
            path: path.clone(),
        };
        let bytes = match crate::files::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(new()),
            Err(error) => return Err(FileError::new("read", &path)(error).into()),
        };
        let mut journal: Self = serde_json::from_slice(&bytes).map_err(|error| {
            let path = path.display();
            WorkflowError::Journal(format!(
                "{path} is not the journal of a run; delete it, or name another folder: {error}"
            ))
        })?;
        if journal.format_version != FORMAT_VERSION {
            return Err(WorkflowError::Journal(format!(
                "{} is of format {}, this gelora writes {FORMAT_VERSION}; delete it",
                path.display(),
                journal.format_version
            )));
        }
        journal.path = path;
        Ok(journal)
    }

    /// Runs a stage unless its result exists: made from the same inputs by the same version, with its files unchanged.
    ///
    /// `work` receives whether there was an unfinished attempt from the same inputs, and returns its results and the files
    /// it wrote.
    pub fn stage<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        inputs: Value,
        observer: &dyn Observer,
        work: impl FnOnce(Earlier) -> Result<(T, Vec<PathBuf>), WorkflowError>,
    ) -> Result<T, WorkflowError> {
        observer.check()?;
        let inputs_sha256 = hash_of(&inputs);
        let earlier = self.stages.get(name).filter(|stage| stage.had(&inputs, &inputs_sha256));
        if let Some(stage) = earlier.filter(|stage| stage.done && stage.is_untouched())
            && let Ok(facts) = T::deserialize(&stage.facts)
        {
            observer.observe(Event::Notice(&format!("{name}: taken from an earlier run")));
            return Ok(facts);
        }
        let earlier = if earlier.is_some_and(|stage| !stage.done) { Earlier::Same } else { Earlier::None };
        let begun = Stage { inputs_sha256, inputs, done: false, seconds: 0.0, outputs: Vec::new(), facts: Value::Null };
        self.stages.insert(name.to_owned(), begun);
        self.write()?;

        let start = Instant::now();
        let (facts, outputs) = work(earlier)?;
        let outputs: Result<Vec<_>, _> =
            outputs.into_iter().map(|path| sha256_file(&path).map(|hash| (path, hash))).collect();
        if let Some(stage) = self.stages.get_mut(name) {
            stage.done = true;
            stage.seconds = start.elapsed().as_secs_f64();
            stage.outputs = outputs?;
            stage.facts = serde_json::to_value(&facts)
                .map_err(|error| WorkflowError::Journal(format!("cannot write down what a stage found: {error}")))?;
        }
        self.write()?;
        Ok(facts)
    }

    /// Whether this file of a finished stage exists but differs from what the stage wrote.
    pub fn was_edited(&self, name: &str, file: &Path) -> bool {
        let outputs = self.stages.get(name).filter(|stage| stage.done).map(|stage| stage.outputs.as_slice());
        let written = outputs.unwrap_or_default().iter().find(|(path, _)| path == file);
        written.is_some_and(|(path, hash)| sha256_file(path).is_ok_and(|found| found != *hash))
    }

    /// SHA-256 of the files that a finished stage wrote.
    pub fn outputs(&self, name: &str) -> Value {
        let outputs = self.stages.get(name).map(|stage| stage.outputs.as_slice()).unwrap_or_default();
        Value::from(outputs.iter().map(|(_, hash)| hash.as_str()).collect::<Vec<_>>())
    }

    /// Writes the journal.
    pub fn write(&self) -> Result<(), WorkflowError> {
        Ok(write_json(&self.path, self)?)
    }
}

/// Hash of the inputs together with the version of gelora.
fn hash_of(inputs: &Value) -> String {
    sha256(format!("{} {inputs}", env!("CARGO_PKG_VERSION")).as_bytes())
}

impl Stage {
    /// Whether it was started by this version with these inputs. They may have been recorded in another order.
    fn had(&self, inputs: &Value, inputs_sha256: &str) -> bool {
        self.inputs_sha256 == inputs_sha256 || self.inputs == *inputs && self.inputs_sha256 == hash_of(&self.inputs)
    }

    fn is_untouched(&self) -> bool {
        let same = |path: &Path, hash: &str| sha256_file(path).is_ok_and(|found| found == hash);
        self.outputs.iter().all(|(path, hash)| same(path, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Cancelled, Silent};

    /// Runs one stage that writes `result`; returns what it knew of earlier attempts, or `None` if it was skipped.
    fn attempt(folder: &Path, inputs: impl Into<Value>, fail: bool) -> Option<Earlier> {
        let inputs = inputs.into();
        let mut journal = Journal::open(folder.join("run.json")).unwrap();
        let mut done = None;
        let result = journal.stage("plan", inputs.clone(), &Silent, |earlier| {
            done = Some(earlier);
            if fail {
                return Err(Cancelled.into());
            }
            let file = folder.join("result");
            std::fs::write(&file, inputs.to_string()).unwrap();
            Ok((inputs.clone(), vec![file]))
        });
        assert_eq!(result.ok(), (!fail).then_some(inputs.clone()));
        done
    }

    #[test]
    fn a_stage_is_done_once_for_the_same_inputs() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(attempt(folder.path(), 1, true), Some(Earlier::None));
        assert_eq!(attempt(folder.path(), 1, false), Some(Earlier::Same), "goes on with what the first attempt left");
        assert_eq!(attempt(folder.path(), 1, false), None);
        assert_eq!(attempt(folder.path(), 2, false), Some(Earlier::None), "other inputs");
        std::fs::write(folder.path().join("result"), "touched").unwrap();
        assert_eq!(attempt(folder.path(), 2, false), Some(Earlier::None), "another file");
        std::fs::remove_file(folder.path().join("result")).unwrap();
        assert_eq!(attempt(folder.path(), 2, false), Some(Earlier::None), "no file");
    }

    #[test]
    fn the_order_of_settings_is_none_of_the_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        attempt(folder.path(), inputs(r#"{"plan": {"seed": 1, "rows": null}, "limit": 5}"#), false);
        assert_eq!(attempt(folder.path(), inputs(r#"{"limit": 5, "plan": {"rows": null, "seed": 1}}"#), false), None);
        let other = inputs(r#"{"limit": 5, "plan": {"rows": null, "seed": 2}}"#);
        assert_eq!(attempt(folder.path(), other.clone(), false), Some(Earlier::None), "another value");
        // A journal of another version holds other hashes of equal inputs.
        let path = folder.path().join("run.json");
        let text = std::fs::read_to_string(&path).unwrap().replace(&hash_of(&other), &"0".repeat(64));
        std::fs::write(&path, text).unwrap();
        assert_eq!(attempt(folder.path(), other, false), Some(Earlier::None), "another version");
    }

    #[test]
    fn a_file_that_is_no_journal_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        std::fs::write(&path, "{}").unwrap();
        let error = Journal::open(path.clone()).unwrap_err();
        assert!(format!("{error:#}").contains("delete it"), "{error:#}");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{}");
    }
}
