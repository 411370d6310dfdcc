//! Keys of `[data]` that do not belong to the task.

use super::DataSection;
use crate::dataset::ObjectiveKind;

impl DataSection {
    /// The first key that does not belong to the task, and why.
    pub fn misfit(&self) -> Option<(&'static str, &'static str)> {
        let table = [
            ("text", self.text.is_some()),
            ("pair", self.pair.is_some()),
            ("label", self.label.is_some()),
            ("labels", self.labels.is_some()),
            ("objective", self.objective.is_some()),
            ("format", self.format.is_some()),
            ("quoting", self.quoting.is_some()),
        ];
        let spans = [
            ("stride", self.stride.is_some()),
            ("max_answer_length", self.max_answer_length.is_some()),
            ("n_best", self.n_best.is_some()),
        ];
        let threshold = [("null_threshold", self.null_threshold.is_some())];
        let given = |keys: &[(&'static str, bool)]| keys.iter().find(|(_, given)| *given).map(|(key, _)| *key);
        match self.spans() {
            Some(spans) => {
                let table = given(&table).map(|key| (key, "is for tables, and squad has none"));
                let metrics =
                    || self.metrics.is_some().then_some(("metrics", "cannot be chosen: squad has F1 and exact match"));
                let null = || given(&threshold).filter(|_| !spans.null_answers);
                table
                    .or_else(metrics)
                    .or_else(|| null().map(|key| (key, "is for questions without an answer (squad2)")))
            }
            None => given(&spans)
                .or(given(&threshold))
                .map(|key| (key, "is for span answers (task squad or squad2)"))
                .or_else(|| self.misfit_of_language_model()),
        }
    }

    fn misfit_of_language_model(&self) -> Option<(&'static str, &'static str)> {
        let preset = self.preset().filter(|preset| preset.objective == ObjectiveKind::CausalLm)?;
        let given = [
            ("metrics", self.metrics.is_some(), "cannot be chosen: a language model has its perplexity"),
            ("labels", self.labels.is_some(), "is for classes, and a language model has none"),
            (
                "label",
                self.label.is_some() && preset.label.is_none(),
                "is for tables with labels, and plain texts have none",
            ),
            (
                "pair",
                self.pair.is_some() && preset.pair.is_none(),
                "is for pairs of texts, and a language model takes one",
            ),
        ];
        given.into_iter().find(|(_, given, _)| *given).map(|(key, _, cure)| (key, cure))
    }
}
