//! gelora gives every layer of a transformer the LoRA rank its data asks for.
//!
//! Data flows in one direction: [`onnx`] → [`runtime`] → [`activations`] → [`neighbours`] → [`dimension`] → [`rank`] →
//! [`adapter`] → [`task`] → `train` → [`merge`] → [`evaluate`]. [`workflow`] holds the steps that a user takes, with [`settings`];
//! the command line is [`cli`]. A room never imports a later one.
//! The advice in an error is given in the words of the library, or in those of a front end: [`hint`].

//! # The dimension of an array
//!
//! ```
//! use gelora::{dimension::TwoNn, ndarray::Array2, progress::Silent};
//! // A rolled-up sheet in three columns, at irregular places.
//! let place = |row: usize| ((row as f64 * 0.618_034).fract() * 9.0, (row as f64 * row as f64 * 0.754_877_7).fract() * 9.0);
//! let sheet = |(t, h): (f64, f64)| [(3.0 + t) * t.cos(), h, (3.0 + t) * t.sin()];
//! let points = Array2::from_shape_fn((2000, 3), |(row, column)| sheet(place(row))[column]);
//! let found = TwoNn::default().estimate(points.view(), &Silent)?;
//! assert_eq!(found.dimension().map(f64::round), Some(2.0));
//! # Ok::<(), gelora::dimension::DimensionError>(())
//! ```
//!
//! # The blocks of an export
//!
//! ```
//! let export = gelora::workflow::Export::new("onnx/tiny_encoder".as_ref())?;
//! let weights = export.weights()?;
//! assert_eq!(weights.blocks.len(), 2);
//! assert!(weights.blocks[0].linears[0].module.as_ref().is_some_and(|name| name.ends_with("attention.self.query")));
//! # Ok::<(), gelora::workflow::WorkflowError>(())
//! ```
//!
//! A plan, training with it, and merging
//!
//! A [`Session`](workflow::Session) holds the device to compute on and the observer of progress.
//!
//! ```
//! # if gelora::runtime::Library::load(None).is_err() { return Ok(()) }
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path();
//! use gelora::settings::{DataSettings, PlanSettings};
//! use gelora::workflow::{Session, make_plan};
//!
//! let rows = DataSettings { text: Some("sentence".into()), ..DataSettings::of("examples/data/agreement_train.tsv".as_ref()) };
//! let settings = PlanSettings { rows: Some(200), subsamples: 0, ..PlanSettings::default() };
//! let plan = make_plan(&Session::default(), "onnx/tiny_encoder".as_ref(), &rows, &settings, out)?;
//! assert_eq!(plan.blocks.len(), 2);
//! # Ok::<(), gelora::workflow::WorkflowError>(())
//! ```
//!
#![cfg_attr(
    feature = "train",
    doc = r#"
```
# if gelora::runtime::Library::load(None).is_err() { return Ok(()) }
# use gelora::settings::PlanSettings;
# let folder = tempfile::tempdir().unwrap();
# let (plan, adapter, out) = (folder.path().join("plan"), folder.path().join("adapter"), folder.path().join("merged"));
# let (plan, adapter, out) = (plan.as_path(), adapter.as_path(), out.as_path());
use gelora::settings::{DataSettings, TrainSettings};
use gelora::workflow::{Session, Training, merge_adapter, train_at_plan};

# let model = "onnx/tiny_encoder".as_ref();
let rows = DataSettings { text: Some("sentence".into()), ..DataSettings::of("examples/data/agreement_dev.tsv".as_ref()) };
# let few = PlanSettings { rows: Some(200), subsamples: 0, ..PlanSettings::default() };
# gelora::workflow::make_plan(&Session::default(), model, &rows, &few, plan)?;
let settings = TrainSettings { epochs: 1, maximum_steps: Some(3), ..TrainSettings::default() };
let training = Training { settings, ..Training::new(model, plan, rows, adapter) };
let trained = train_at_plan(&Session::default(), &training)?;
assert_eq!(trained.steps, 3);
let merged = merge_adapter(&Session::default(), model, adapter, out, &Default::default())?;
assert!(merged.files.contains(&"model.onnx".to_owned()));
# Ok::<(), gelora::workflow::WorkflowError>(())
```
"#
)]

pub mod activations;
pub mod adapter;
pub mod checkpoint;
pub mod cli;
pub mod dataset;
pub mod dimension;
pub mod evaluate;
pub mod files;
pub mod hint;
pub mod merge;
pub mod neighbours;
pub mod onnx;
pub mod progress;
pub mod rank;
pub mod report;
pub mod runtime;
pub mod settings;
mod settings_value;
pub mod task;
#[cfg(test)]
mod testing;
#[cfg(feature = "train")]
pub mod train;
pub mod workflow;

/// The version of the crate that arrays of points and activations belong to.
pub use ndarray;
