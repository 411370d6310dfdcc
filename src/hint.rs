//! Words for what a cure names: a setting or a step, in the form in which the reader of an error can use it.
//!
//! An error names a cure, such as the column of the labels. A caller of the library gives it as the field `label`,
//! a user of the command line as `--label`, and a configuration has a key for it. So an error contains a [`Hint`], and the front
//! end supplies the words for it; without a front end they are those of the library.
//!
//! ```
//! use gelora::hint::Hint;
//! assert_eq!(format!("name their column with {}", Hint::Label), "name their column with `label`");
//! assert_eq!(format!("take {}", Hint::Method.with("lora")), "take `method = \"lora\"`");
//! ```

use std::fmt;
use std::sync::{PoisonError, RwLock};

/// What a hint names in the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryName {
    /// The name of a field of a settings type.
    Field(&'static str),
    /// The path of a function in the crate.
    Function(&'static str),
}

/// Defines the hints: each is listed here once, with what it names in the library.
macro_rules! hints {
    ( $( $(#[doc = $doc:expr])* $Name:ident: $LibraryName:ident($place:literal), )* ) => {
        /// A setting or a step that a cure can name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Hint {
            $( $(#[doc = $doc])* $Name, )*
        }

        impl Hint {
            /// All hints.
            pub const ALL: &[Hint] = &[$(Hint::$Name),*];

            /// The field or function that the hint names in the library.
            pub fn place(self) -> LibraryName {
                match self {
                    $( Hint::$Name => LibraryName::$LibraryName($place), )*
                }
            }
        }
    };
}

hints! {
    /// Name of the task.
    Task: Field("task"),
    /// Name of the column of the text.
    Text: Field("text"),
    /// Name of the column of the label.
    Label: Field("label"),
    /// Names of the labels.
    Labels: Field("labels"),
    /// The kind of labels.
    Objective: Field("objective"),
    /// Format of the file.
    Format: Field("format"),
    /// Whether quotes enclose fields.
    Quoting: Field("quoting"),
    /// As [`Hint::Quoting`], in a warning that every command gives.
    QuotingInWarning: Field("quoting"),
    /// Maximum number of tokens in a row.
    MaximumLength: Field("max_length"),
    /// Number of tokens that two consecutive windows share.
    Stride: Field("stride"),
    /// Tagging scheme of the entities.
    Scheme: Field("scheme"),
    /// Whether entities are counted strictly.
    Strict: Field("strict"),
    /// Rows to evaluate on during training.
    Validation: Field("dev"),
    /// File of the predictions.
    Predictions: Field("predictions"),

    /// How a text becomes one vector.
    Pooling: Field("pooling"),
    /// Tokens in a batch.
    BatchTokens: Field("batch_tokens"),
    /// Whether a sample keeps the proportions of the labels.
    Stratified: Field("stratified"),
    /// Maximum width of the interval of a dimension.
    Until: Field("until"),
    /// Number of subsamples for the intervals.
    Subsamples: Field("subsamples"),
    /// Rows in a mini-batch that a dimension is averaged over.
    MiniBatch: Field("mini_batch"),
    /// How neighbours are searched.
    Neighbours: Field("neighbours"),
    /// Name of a tensor in a file of points.
    Tensor: Field("tensor"),
    /// The smallest rank.
    MinimumRank: Field("minimum_rank"),
    /// Maximum number of parameters of an adapter.
    Budget: Field("budget"),
    /// Weights that get adapters.
    Projections: Field("projections"),

    /// The training method.
    Method: Field("method"),
    /// Rows in a training batch.
    BatchSize: Field("batch_size"),
    /// Type of the products with frozen weights.
    Precision: Field("precision"),
    /// The head to add.
    Head: Field("head"),
    /// As [`Hint::Head`], between backticks.
    HeadInBackticks: Field("head"),
    /// Whether training ignores a saved state and starts from the beginning; follows the words `start over with`.
    Restart: Field("restart"),
    /// The adapter to start from.
    Start: Field("start"),
    /// The plan to train at.
    Plan: Field("plan"),
    /// Whether an adapter may be merged into another base than it was trained on.
    BaseChanged: Field("base_changed"),

    /// The device to compute on.
    Device: Field("device"),
    /// Number of threads to compute with.
    Threads: Field("threads"),
    /// The ONNX Runtime library.
    OrtLib: Field("ort_lib"),

    /// Exposes values of a graph as hidden states.
    Expose: Function("onnx::expose"),
    /// Selects hidden states by a pattern.
    Tap: Function("onnx::HiddenStates::matching"),
    /// Selects hidden states by their names.
    TapList: Function("onnx::HiddenStates::named"),
    /// Switches dropout off in a copy; with the path of the export.
    SwitchOffDropout: Function("onnx::disable_training_mode"),
    /// As [`Hint::SwitchOffDropout`], as a whole command with the path of the model.
    CopyWithoutDropout: Function("onnx::disable_training_mode"),
    /// Whether dropout is switched off in the copy being made.
    DropoutInCopy: Field("eval"),
    /// Whether a copy is run and compared with its export.
    CheckOfCopy: Field("check"),
    /// Whether existing activations are replaced.
    ReplaceStore: Field("overwrite"),
    /// Makes a plan; with the folder for it.
    MakePlan: Function("workflow::make_plan"),
    /// Trains with the ranks of a plan; with the path of the plan.
    TrainAtPlan: Function("workflow::train_at_plan"),
}

/// The value that a hint advises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// No particular value.
    Any,
    /// This value.
    One(String),
    /// One of these values.
    OneOf(&'static [&'static str]),
}

/// A hint with the value to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The setting or the step.
    pub hint: Hint,
    /// Its value; for a step, the path that it works on.
    pub value: Value,
}

impl Hint {
    /// The hint with a value; for a setting that is a list, several separated by commas.
    pub fn with(self, value: impl fmt::Display) -> Advice {
        Advice { hint: self, value: Value::One(value.to_string()) }
    }

    /// The hint with the values that fit.
    pub fn one_of(self, values: &'static [&'static str]) -> Advice {
        Advice { hint: self, value: Value::OneOf(values) }
    }

    /// Whether the value of the setting is a list.
    fn is_list(self) -> bool {
        matches!(self, Hint::Labels | Hint::Projections)
    }
}

impl From<Hint> for Advice {
    fn from(hint: Hint) -> Self {
        Advice { hint, value: Value::Any }
    }
}

impl Advice {
    /// The advice in the words of the library; a configuration has the same words, because its keys are the fields.
    pub fn in_library(&self) -> String {
        let key = match self.hint.place() {
            LibraryName::Function(path) => return format!("`{path}`"),
            LibraryName::Field(name) => name,
        };
        match &self.value {
            Value::Any => format!("`{key}`"),
            Value::One(value) if self.hint.is_list() => {
                let items: Vec<String> = value.split(',').map(literal).collect();
                format!("`{key} = [{}]`", items.join(", "))
            }
            Value::One(value) => format!("`{key} = {}`", literal(value)),
            Value::OneOf(values) => format!("`{key}` = {}", or(values.iter().copied())),
        }
    }
}

/// A value as written in code: words in quotes, numbers and an ellipsis unquoted.
fn literal(value: &str) -> String {
    match value {
        "true" | "false" | "…" => value.to_owned(),
        number if number.parse::<f64>().is_ok() => number.to_owned(),
        word => format!("\"{word}\""),
    }
}

/// A list of alternatives: `a, b or c`.
pub fn or(words: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    match (words.pop(), words.as_slice()) {
        (None, _) => String::new(),
        (Some(last), []) => last,
        (Some(last), others) => format!("{} or {last}", others.join(", ")),
    }
}

type Words = Box<dyn Fn(&Advice) -> String + Send + Sync>;

/// The words of the front end, if there is one.
static WORDS: RwLock<Option<Words>> = RwLock::new(None);

/// Makes every hint of this process use the words of a front end from now on. The function must not format a hint itself.
pub fn speak(words: impl Fn(&Advice) -> String + Send + Sync + 'static) {
    *WORDS.write().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(words));
}

impl fmt::Display for Advice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = WORDS.read().unwrap_or_else(PoisonError::into_inner);
        formatter.write_str(&words.as_ref().map_or_else(|| self.in_library(), |words| words(self)))
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Advice::from(*self).fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_said_in_the_words_of_the_library() {
        assert_eq!(Hint::Label.to_string(), "`label`");
        assert_eq!(Hint::Task.with("squad").to_string(), "`task = \"squad\"`");
        assert_eq!(Hint::MaximumLength.with(510).to_string(), "`max_length = 510`");
        assert_eq!(Hint::Quoting.with(false).to_string(), "`quoting = false`");
        assert_eq!(Hint::Labels.with("O,B-…,…").to_string(), "`labels = [\"O\", \"B-…\", …]`");
        assert_eq!(Hint::Head.one_of(&["first", "mean", "last"]).to_string(), "`head` = first, mean or last");
        assert_eq!(Hint::MakePlan.with("out").to_string(), "`workflow::make_plan`");
    }
}
