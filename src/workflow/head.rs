//! Checks that the head of an export fits the task, before anything is computed.

use crate::checkpoint::ModelFolder;
use crate::hint::Hint;
use crate::onnx::{Dimension, Head, Model};
use crate::progress::Event;
use crate::task::{DataSettings, Lines, Objective, label_names};

use super::{Session, WorkflowError};

/// The head of an export, as far as it can be found.
pub(super) struct FoundHead<'m> {
    model: &'m Model,
    folder: &'m ModelFolder,
    head: Option<&'m Head>,
}

impl<'m> FoundHead<'m> {
    /// The head of an export, where one was found.
    pub(super) fn new(folder: &'m ModelFolder, model: &'m Model, head: Option<&'m Head>) -> Self {
        Self { model, folder, head }
    }

    /// Refuses a head of another kind than the task needs.
    pub(super) fn fits_task(&self, data: &DataSettings) -> Result<(), WorkflowError> {
        match self.misfit(data) {
            Some(reason) => Err(self.refused(reason)),
            None => Ok(()),
        }
    }

    /// Like [`FoundHead::fits_task`], for training, which needs a head or the setting to add one.
    #[cfg(feature = "train")]
    pub(super) fn fits_training(
        &self,
        data: &DataSettings,
        settings: &crate::settings::TrainSettings,
    ) -> Result<(), WorkflowError> {
        use crate::train::{TrainError, check_new_head};
        let model = || self.model.path().to_owned();
        match (&self.head, settings.head, data.reader().head().lines) {
            (Some(head), Some(_), _) => Err(TrainError::HasHead { model: model(), output: head.output.clone() }.into()),
            (None, _, Lines::Vocabulary) => {
                Err(TrainError::NoLanguageHead { model: model(), found: "makes no logits".into() }.into())
            }
            (None, _, Lines::Ends) => Err(TrainError::NoSpanHead { found: "none of a head".into() }.into()),
            (None, None, Lines::Row | Lines::Token) => Err(TrainError::NoHead { model: model() }.into()),
            (None, Some(head), lines @ (Lines::Row | Lines::Token)) => Ok(check_new_head(head, lines)?),
            (Some(_), None, _) => self.fits_task(data),
        }
    }

    /// A plan needs no head. Warns that nothing can be trained for this task on this export; refuses a classifier as a
    /// language model, since its tokens may depend on later ones.
    pub(super) fn tell_misfit(&self, session: &Session<'_>, data: &DataSettings) -> Result<(), WorkflowError> {
        match self.misfit(data).filter(|_| data.names_labels()) {
            Some(reason) if data.reader().head().lines == Lines::Vocabulary => Err(self.refused(reason)),
            Some(reason) => {
                let text =
                    format!("nothing can be trained for this task with {}: {reason}", self.model.path().display());
                session.observer().observe(Event::Warning(&text));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Refuses a head whose number of outputs differs from the number of classes in the data.
    pub(super) fn fits_labels(&self, objective: &Objective) -> Result<(), WorkflowError> {
        let spec = objective.head();
        let wanted = spec.width.filter(|_| matches!(spec.lines, Lines::Row | Lines::Token));
        let (Some(wanted), Some(found)) = (wanted, self.width()) else { return Ok(()) };
        if wanted == found {
            return Ok(());
        }
        let Some(labels) = objective.classes() else {
            return Err(self.refused(format!(
                "its head gives {found} numbers a row, and the labels are single numbers; export the model with 1 label, or \
                 give {}",
                Hint::Objective.with("classification")
            )));
        };
        let names = self.folder.config.as_ref().and_then(label_names).filter(|names| names.len() == found);
        let names = names.map(|names| format!(" ({})", names.join(", "))).unwrap_or_default();
        let cure = match found {
            0 | 1 => String::new(),
            _ => format!(
                "name all classes of the model in their order with {} (the rows may lack some), or ",
                Hint::Labels
            ),
        };
        Err(self.refused(format!(
            "its head tells {found} classes apart{names}, and the rows have {wanted} ({}); {cure}export the model with \
             {wanted} labels",
            shortened(labels)
        )))
    }

    /// Number of outputs of the head per row.
    fn width(&self) -> Option<usize> {
        let head = self.head.as_ref().filter(|head| !head.predicts_tokens && head.outputs.len() == 1)?;
        let output = self.model.graph.outputs.iter().find(|output| output.name == head.output)?;
        match output.shape.as_deref()? {
            [_, Dimension::Fixed(width)] | [_, _, Dimension::Fixed(width)] => Some(*width),
            _ => head.linears.last().map(|last| last.out_features),
        }
    }

    /// Why the head, if there is one, does not fit, with how to fix it.
    fn misfit(&self, data: &DataSettings) -> Option<String> {
        // Without a task or objective in the settings, the rows decide.
        let named = data.task.is_some() || data.objective.is_some();
        data.reader().head().misfit(self.head.filter(|_| named)?)
    }

    fn refused(&self, reason: String) -> WorkflowError {
        WorkflowError::Head { onnx: self.model.path().to_owned(), reason }
    }
}

/// The first names, and the number of those left out.
fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 6;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{}, and {more} more", names[..SHOWN].join(", ")),
    }
}
