//! From a model and its data to a plan with all its files: the implementation of `gelora plan` and of the first stage of
//! `gelora run`.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::activations::{ActivationsError, Manifest, Store};
use crate::adapter::{CONFIG_FILE, ConfigSettings, TrainedHead, adapter_config, head_modules};
use crate::checkpoint::Checkpoint;
use crate::dataset::Tokenizer;
use crate::dimension::MINIMUM_POINTS;
use crate::files::{FileError, sha256_file, write_json};
use crate::onnx;
use crate::progress::Event;
use crate::rank::{
    BlockToAdapt, DataProvenance, ExtractionProvenance, Layers, ModelProvenance, Plan, PlanRequest, RowText,
    check_blocks, plan_of,
};
use crate::report;

use super::causality::refuse_foresight;
use super::extract::short_reason;
use super::measuring::Measured;
use super::outputs::refuse_adapter_folder;
use super::rows::read;
use super::sampling::{Drawn, Subject};
use super::{Export, Weights};
use super::{Session, WorkflowError};
use crate::settings::PlanSettings;
use crate::task::{DataSettings, Lines, Purpose, Rows};

/// Paths of a plan and its files.
#[derive(Debug, Clone)]
pub struct PlanFiles {
    pub store: PathBuf,
    pub plan: PathBuf,
    pub dimensions: PathBuf,
    pub report: PathBuf,
    pub adapter_config: PathBuf,
}

impl PlanFiles {
    /// The paths in the folder `out`.
    pub fn in_folder(out: &Path) -> Self {
        Self {
            store: out.join("store"),
            plan: out.join("plan.json"),
            dimensions: out.join("dimensions.csv"),
            report: out.join("report.html"),
            adapter_config: out.join(CONFIG_FILE),
        }
    }

    /// The files that a plan writes, the plan itself last: if it exists, so do the others.
    pub fn written(&self) -> [&Path; 4] {
        [&self.dimensions, &self.report, &self.adapter_config, &self.plan]
    }
}

/// The file of a plan, given as the file itself or as the folder that contains it.
///
/// # Errors
/// Returns an error for a folder without a plan.
pub fn plan_file(plan: &Path) -> Result<PathBuf, WorkflowError> {
    if !plan.is_dir() {
        return Ok(plan.to_owned());
    }
    let file = PlanFiles::in_folder(plan).plan;
    if file.exists() { Ok(file) } else { Err(WorkflowError::NoPlan { folder: plan.to_owned() }) }
}

/// The rows of a plan, as set in `[data]`, and their tokenizer.
pub(super) struct PlanData<'a> {
    pub section: &'a DataSettings,
    pub rows: &'a dyn Rows,
    pub tokenizer: &'a Tokenizer,
}

/// Runs rows through a model, measures the intrinsic dimension of every layer, chooses a rank for every block, and writes the
/// plan, its report and a configuration for PEFT to the folder `out`.
///
/// Activations stay in `out/store`: calling this again resumes them, or reuses them if they are complete.
///
/// # Errors
/// Returns an error for a model, tokenizer or rows that cannot be read or do not fit together, invalid settings, and too few
/// distinct rows.
pub fn make_plan(
    session: &Session<'_>,
    model: &Path,
    data: &DataSettings,
    settings: &PlanSettings,
    out: &Path,
) -> Result<Plan, WorkflowError> {
    let files = PlanFiles::in_folder(out);
    refuse_adapter_folder(out)?;
    session.take_folder(out, &[("model", model)])?;
    session.lock(&files.store)?;
    let model = Export::new(model)?;
    model.tell_origin(session);
    model.found_head()?.tell_misfit(session, data)?;
    let tokenizer = model.tokenizer(session, data.max_length())?;
    let rows = read(session, data, &tokenizer, Purpose::planning(settings.stratified), None)?;
    let data = PlanData { section: data, rows: rows.as_ref(), tokenizer: &tokenizer };
    plan(session, &model, &data, settings, &files)
}

/// Extracts, measures, assigns ranks, and writes everything.
pub(super) fn plan(
    session: &Session<'_>,
    model: &Export,
    data: &PlanData<'_>,
    settings: &PlanSettings,
    files: &PlanFiles,
) -> Result<Plan, WorkflowError> {
    let (blocks, quantized) = blocks_to_adapt(session, model)?;
    check_blocks(&blocks, &settings.rank_settings())?;
    if data.section.reader().head().lines == Lines::Vocabulary {
        refuse_foresight(session, &model.model, &data.rows.first(64, data.tokenizer)?, data.tokenizer)?;
    }
    let rows = data.rows.len().min(settings.rows.unwrap_or(usize::MAX));
    if let Some(sample) = settings.rows.filter(|&sample| sample < MINIMUM_POINTS) {
        return Err(WorkflowError::SmallSample { rows: sample, needed: MINIMUM_POINTS });
    }
    if rows < MINIMUM_POINTS {
        let path = data.rows.path().to_owned();
        return Err(WorkflowError::FewRows { path, rows, needed: MINIMUM_POINTS });
    }
    settings.check()?;
    let drawn = Drawn::new(data.rows, settings)?;
    let subject = Subject { session, model, rows: data.rows, tokenizer: data.tokenizer, drawn: &drawn, plan: settings };
    if let Some(batch_rows) = settings.mini_batch {
        let (manifest, measured) = subject.stream(batch_rows)?;
        let plan = rank(&subject, data, &blocks, &manifest, measured, None, quantized)?;
        write(model, &plan, files)?;
        return Ok(plan);
    }
    let (store, measured, beside) = extract_for_plan(&subject, files)?;
    let made = match measured {
        Some(measured) => Ok(measured),
        None => subject.measure(&store),
    };
    let text = row_texts(data, &store, &drawn)?;
    let made =
        made.and_then(|measured| rank(&subject, data, &blocks, store.manifest(), measured, Some(&text), quantized));
    if let (Err(_), Some(beside), Ok(())) = (&made, &beside, session.observer().check()) {
        // These activations cannot give a plan, now or later.
        fs::remove_dir_all(beside).map_err(FileError::new("remove", beside))?;
    }
    let plan = made?;
    if let Some(beside) = beside {
        fs::remove_dir_all(&files.store).map_err(FileError::new("replace", &files.store))?;
        fs::rename(&beside, &files.store).map_err(FileError::new("replace", &files.store))?;
    }
    write(model, &plan, files)?;
    Ok(plan)
}

/// Makes the plan from the measurements.
fn rank(
    subject: &Subject<'_>,
    data: &PlanData<'_>,
    blocks: &[BlockToAdapt],
    manifest: &Manifest,
    measured: Measured,
    text: Option<&RowText<'_>>,
    quantized: bool,
) -> Result<Plan, WorkflowError> {
    let Subject { model, plan: settings, .. } = *subject;
    let request = PlanRequest {
        model: model_provenance(model, manifest)?,
        data: DataProvenance { sampling: measured.sampling, ..data_provenance(data, manifest) },
        extraction: extraction_provenance(manifest),
        hidden_states: &model.model.states()?.values,
        blocks,
        representation: settings.representation(),
        estimator: settings.two_nn(),
        settings: settings.rank_settings(),
        text,
    };
    let mut plan = plan_of(&measured.measurements, &request)?;
    if quantized {
        plan.warnings.insert(0, QUANTIZED.to_owned());
    }
    plan.warnings.extend(onnx::normalised_logits(&model.model));
    Ok(plan)
}

/// The text behind each row of the store.
fn row_texts<'a>(
    data: &'a PlanData<'_>,
    store: &Store,
    drawn: &'a Drawn,
) -> Result<impl Fn(usize) -> Option<String> + 'a, WorkflowError> {
    let source = store.source_rows()?;
    Ok(move |row: usize| data.rows.text(*drawn.rows.get(*source.get(row)?)?))
}

/// The store of a plan, and any measurements made on the way. A store made from other inputs belongs to an earlier plan and
/// stays until the new plan is made: the new store then grows in the folder returned last.
fn extract_for_plan(
    subject: &Subject<'_>,
    files: &PlanFiles,
) -> Result<(Store, Option<Measured>, Option<PathBuf>), WorkflowError> {
    match subject.extract(&files.store, false) {
        Err(WorkflowError::Activations(other @ ActivationsError::OtherStore { .. })) => {
            let observer = subject.session.observer();
            observer.observe(Event::Notice(&format!("made anew: {}", short_reason(&other))));
            let beside = files.store.with_extension("new");
            let (store, measured) = subject.extract(&beside, true)?;
            Ok((store, measured, Some(beside)))
        }
        Err(error) => Err(error),
        Ok((store, measured)) => Ok((store, measured, None)),
    }
}

const QUANTIZED: &str = "the weights of this export are quantized: the plan says what the data ask for, but nothing can be \
                         trained with it; plan, train and merge with the floating-point export that it was made of";

/// The blocks with the checkpoint's names for their weights, and whether weights are quantized.
pub(super) fn blocks_to_adapt(
    session: &Session<'_>,
    model: &Export,
) -> Result<(Vec<BlockToAdapt>, bool), WorkflowError> {
    let weights = model.weights()?;
    let Weights { blocks, linears, matches } = &weights;
    if let Some(reason) = onnx::no_linear_layers(&model.model, blocks) {
        return Err(WorkflowError::NothingToAdapt { onnx: model.folder.onnx.clone(), reason });
    }
    let in_blocks: HashSet<usize> = blocks.iter().flat_map(|block| &block.linears).map(|linear| linear.node).collect();
    let mut found = linears.iter().zip(matches).filter(|(linear, _)| in_blocks.contains(&linear.node));
    if let Some(checkpoint) = model.folder.checkpoint.as_ref().filter(|_| found.all(|(_, found)| found.is_none())) {
        return Err(WorkflowError::OtherCheckpoint(of_another_model(checkpoint)));
    }
    model.told_structure(session, &weights)?;
    let first_copies = model.model.first_copies()?;
    let quantized = linears.iter().any(|linear| linear.quantized);
    let layers = Layers { linears, matches, first_copies };
    Ok((BlockToAdapt::all(blocks, layers), quantized))
}

/// A warning about a checkpoint that contains no weight of the export.
pub(super) fn of_another_model(checkpoint: &Checkpoint) -> String {
    let files: Vec<String> = checkpoint.files().iter().map(|file| file.path.display().to_string()).collect();
    format!(
        "no weight of the export is in {}: it is the checkpoint of another model; put the right one beside the export, or \
         take it away",
        files.join(", ")
    )
}

fn write(model: &Export, plan: &Plan, files: &PlanFiles) -> Result<(), WorkflowError> {
    report::write_dimensions(&files.dimensions, plan)?;
    report::write_report(&files.report, plan)?;
    let config = adapter_config(plan, &config_settings(model)?)?;
    write_json(&files.adapter_config, &config)?;
    plan.write(&files.plan)?;
    Ok(())
}

/// The settings that PEFT needs to train this plan itself.
pub(super) fn config_settings(model: &Export) -> Result<ConfigSettings, WorkflowError> {
    let (names, path) = (model.head_names()?, model.head_path()?);
    let predicts_tokens = model.model.head()?.is_some_and(|head| head.predicts_tokens);
    let naming = model.naming(match &names {
        _ if predicts_tokens => TrainedHead::Tokens,
        Some(names) => TrainedHead::Own(names, path.as_ref()),
        None => TrainedHead::Added,
    });
    let names: Vec<String> = names.unwrap_or_default().iter().map(|name| naming.tensor(name)).collect();
    let modules = model.folder.checkpoint.iter().flat_map(|checkpoint| checkpoint.tensors());
    Ok(ConfigSettings {
        head: head_modules(names.iter().map(String::as_str)),
        base_model: Some(model.base_model_path()),
        modules: head_modules(modules.map(|tensor| tensor.name.as_str())),
        naming,
        ..ConfigSettings::default()
    })
}

/// The files of a model beside its `.onnx`, with their hashes: external data, which is passed in, and the checkpoint.
pub(super) fn other_files(
    model: &Export,
    external: Vec<(String, String)>,
) -> Result<Vec<(String, String)>, WorkflowError> {
    let mut other_files = external;
    for file in model.folder.checkpoint.iter().flat_map(|checkpoint| checkpoint.files()) {
        let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
        other_files.push((name.into_owned(), sha256_file(&file.path)?));
    }
    Ok(other_files)
}

fn model_provenance(model: &Export, manifest: &Manifest) -> Result<ModelProvenance, WorkflowError> {
    let identity = &manifest.model;
    let other_files = other_files(model, identity.external.clone())?;
    Ok(ModelProvenance {
        onnx: model.folder.onnx.display().to_string(),
        onnx_sha256: identity.sha256.clone(),
        other_files,
        producer: model.model.producer.clone(),
        opset: model.model.opset(),
        last_state_after_final_norm: onnx::last_state_after_final_norm(&model.model),
    })
}

fn data_provenance(data: &PlanData<'_>, manifest: &Manifest) -> DataProvenance {
    let PlanData { section, rows, tokenizer } = data;
    DataProvenance {
        file: rows.path().display().to_string(),
        sha256: rows.sha256().to_owned(),
        tokenizer_sha256: tokenizer.sha256().to_owned(),
        task: section.task.clone(),
        columns: rows.columns(),
        rows: rows.len() as u64,
        distinct_rows: manifest.rows_done().saturating_sub(manifest.duplicates) as u64,
        maximum_length: section.max_length(),
        sampling: None,
    }
}

fn extraction_provenance(manifest: &Manifest) -> ExtractionProvenance {
    ExtractionProvenance {
        pooling: manifest.pooling.to_string(),
        onnxruntime: manifest.onnxruntime(),
        provider: manifest.matrix_products(),
        equal_lengths: manifest.equal_lengths,
    }
}
