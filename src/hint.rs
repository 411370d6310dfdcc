//! The words for what a cure names: a setting or a step, as the one who reads an error can reach it.
//!
//! An error says what to do, such as to name the column of the labels. A caller of the library does that with the field `label`,
//! a user of the command line with `--label`, and a configuration has a key. So an error names a [`Hint`], and the front end has
//! the words for it; without one they are those of the library.
//!
//! ```
//! use gelora::hint::Hint;
//! assert_eq!(format!("name their column with {}", Hint::Label), "name their column with `label`");
//! assert_eq!(format!("take {}", Hint::Method.with("lora")), "take `method = \"lora\"`");
//! ```

use std::fmt;
use std::sync::{PoisonError, RwLock};

/// What a hint is in the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibraryName {
    /// A field of a settings type, by its name.
    Field(&'static str),
    /// A function, by its path in the crate.
    Function(&'static str),
}

/// Defines the hints: every one stands here once, with its place in the library.
macro_rules! hints {
    ( $( $(#[doc = $doc:expr])* $Name:ident: $LibraryName:ident($place:literal), )* ) => {
        /// What a cure can name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Hint {
            $( $(#[doc = $doc])* $Name, )*
        }

        impl Hint {
            /// All of them.
            pub const ALL: &[Hint] = &[$(Hint::$Name),*];

            /// The field or the function of the library.
            pub fn place(self) -> LibraryName {
                match self {
                    $( Hint::$Name => LibraryName::$LibraryName($place), )*
                }
            }
        }
    };
}

hints! {
    /// The task.
    Task: Field("task"),
    /// Column of the text.
    Text: Field("text"),
    /// Column of the label.
    Label: Field("label"),
    /// Names of the labels.
    Labels: Field("labels"),
    /// What the labels are.
    Objective: Field("objective"),
    /// Format of the file.
    Format: Field("format"),
    /// Whether quotes enclose fields.
    Quoting: Field("quoting"),
    /// The same in a warning that every command gives.
    QuotingInWarning: Field("quoting"),
    /// Longest row in tokens.
    MaximumLength: Field("max_length"),
    /// Tokens that two windows share.
    Stride: Field("stride"),
    /// Scheme of the tags.
    Scheme: Field("scheme"),
    /// Whether entities are counted strictly.
    Strict: Field("strict"),
    /// Rows to evaluate on in training.
    Validation: Field("dev"),
    /// File of the predictions.
    Predictions: Field("predictions"),

    /// What stands for a text.
    Pooling: Field("pooling"),
    /// Tokens in a batch.
    BatchTokens: Field("batch_tokens"),
    /// Whether a sample is in proportion to the labels.
    Stratified: Field("stratified"),
    /// The widest interval of a dimension.
    Until: Field("until"),
    /// Subsamples that tell intervals.
    Subsamples: Field("subsamples"),
    /// Rows in a mini-batch that a dimension is averaged over.
    MiniBatch: Field("mini_batch"),
    /// How neighbours are found.
    Neighbours: Field("neighbours"),
    /// A tensor of a file of points.
    Tensor: Field("tensor"),
    /// Smallest rank.
    MinimumRank: Field("minimum_rank"),
    /// Most parameters of an adapter.
    Budget: Field("budget"),
    /// Weights that get adapters.
    Projections: Field("projections"),

    /// What is trained.
    Method: Field("method"),
    /// Rows in a batch of the training.
    BatchSize: Field("batch_size"),
    /// The head that is added.
    Head: Field("head"),
    /// The same between backticks.
    HeadInBackticks: Field("head"),
    /// Whether training ignores what is saved and starts anew; goes after `start anew with`.
    Restart: Field("restart"),
    /// The adapter to start from.
    Start: Field("start"),
    /// The plan to train at.
    Plan: Field("plan"),
    /// Whether an adapter may be merged into another base than it was trained on.
    BaseChanged: Field("base_changed"),

    /// Where to compute.
    Device: Field("device"),
    /// Threads to compute with.
    Threads: Field("threads"),
    /// The ONNX Runtime library.
    OrtLib: Field("ort_lib"),

    /// Names values of a graph as hidden states.
    Expose: Function("onnx::expose"),
    /// Hidden states by a pattern.
    Tap: Function("onnx::HiddenStates::matching"),
    /// Hidden states by their names.
    TapList: Function("onnx::HiddenStates::named"),
    /// Switches dropout off in a copy; with the path of the export.
    SwitchOffDropout: Function("onnx::disable_training_mode"),
    /// The same as a whole command, with the path of the model.
    CopyWithoutDropout: Function("onnx::disable_training_mode"),
    /// Whether dropout is switched off in the copy that is being made.
    DropoutInCopy: Field("eval"),
    /// Whether a copy is run beside its export.
    CheckOfCopy: Field("check"),
    /// Makes activations in place of those that are there.
    ReplaceStore: Field("overwrite"),
    /// Makes a plan; with the folder for it.
    MakePlan: Function("workflow::make_plan"),
    /// Trains at a plan; with its file.
    TrainAtPlan: Function("workflow::train_at_plan"),
}

/// What a hint advises to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing certain.
    Any,
    /// This.
    One(String),
    /// One of these.
    OneOf(&'static [&'static str]),
}

/// A hint with what to give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The setting or the step.
    pub hint: Hint,
    /// Its value; for a step, the path that it works on.
    pub value: Value,
}

impl Hint {
    /// With a value; several between commas for a setting that is a list.
    pub fn with(self, value: impl fmt::Display) -> Advice {
        Advice { hint: self, value: Value::One(value.to_string()) }
    }

    /// With the values that fit.
    pub fn one_of(self, values: &'static [&'static str]) -> Advice {
        Advice { hint: self, value: Value::OneOf(values) }
    }

    /// Whether its value is a list.
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
    /// In the words of the library; those of a configuration are the same, as its keys are the fields.
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

/// As code writes a value: words between quotes, numbers and an ellipsis as they are.
fn literal(value: &str) -> String {
    match value {
        "true" | "false" | "…" => value.to_owned(),
        number if number.parse::<f64>().is_ok() => number.to_owned(),
        word => format!("\"{word}\""),
    }
}

/// `a, b or c`.
pub fn or(words: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    match (words.pop(), words.as_slice()) {
        (None, _) => String::new(),
        (Some(last), []) => last,
        (Some(last), others) => format!("{} or {last}", others.join(", ")),
    }
}

type Words = Box<dyn Fn(&Advice) -> String + Send + Sync>;

/// Those of the front end, where there is one.
static WORDS: RwLock<Option<Words>> = RwLock::new(None);

/// Says every hint of this process in the words of a front end from now on. The function must not itself write out a hint.
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
