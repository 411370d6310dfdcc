//! An export, resolved once: hidden states, blocks, linear layers, shared weights and head.
//!
//! Everything is computed on first use and kept. Hidden states that cannot be found are an error only to callers that ask
//! for them: the export can still be run.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::linear::LinearFinder;
use super::topology::Index;
use super::{
    Block, DataType, Head, HiddenStates, LinearLayer, Model, OnnxError, Topology, blocks, copies, head, inputs, types,
};

/// A model and its resolved structure.
#[derive(Debug)]
pub struct Transformer {
    model: Model,
    index: Arc<Index>,
    states: OnceLock<HiddenStates>,
    blocks: OnceLock<Vec<Block>>,
    linears: OnceLock<Vec<LinearLayer>>,
    first_copies: OnceLock<Vec<usize>>,
    head: OnceLock<Option<Head>>,
}

impl Deref for Transformer {
    type Target = Model;

    fn deref(&self) -> &Model {
        &self.model
    }
}

impl Transformer {
    /// Opens and parses an `.onnx` file, as [`Model::open`] does.
    ///
    /// # Errors
    /// When the file cannot be read or is not an ONNX model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OnnxError> {
        Ok(Self::new(Model::open(path)?))
    }

    /// Wraps a parsed model.
    pub fn new(model: Model) -> Self {
        Transformer {
            index: Arc::new(Index::new(&model.graph)),
            model,
            states: OnceLock::new(),
            blocks: OnceLock::new(),
            linears: OnceLock::new(),
            first_copies: OnceLock::new(),
            head: OnceLock::new(),
        }
    }

    /// Wraps a model with these hidden states, whatever its graph shows.
    pub fn with_states(model: Model, states: HiddenStates) -> Self {
        Transformer { states: OnceLock::from(states), ..Self::new(model) }
    }

    /// Unwraps the model.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Producer and consumers of every value.
    pub fn topology(&self) -> Topology<'_> {
        Topology::indexed(&self.model.graph, Arc::clone(&self.index))
    }

    /// The hidden states that the export exposes; where it exposes none, those of its residual stream.
    ///
    /// # Errors
    /// When one between 0 and the last is missing, or when there are neither outputs nor a residual stream.
    pub fn states(&self) -> Result<&HiddenStates, OnnxError> {
        once(&self.states, || HiddenStates::find(&self.model, &self.topology()))
    }

    /// The blocks: every node that depends on hidden state `i − 1`, feeds hidden state `i`, and does not reach it through
    /// another hidden state.
    ///
    /// # Errors
    /// When there are no hidden states, or one does not depend on the one before it.
    pub fn blocks(&self) -> Result<&[Block], OnnxError> {
        let find = || blocks::find(&self.model, &self.topology(), self.states()?);
        once(&self.blocks, find).map(Vec::as_slice)
    }

    /// All linear layers, in file order, in blocks or not; roles are not distinguished.
    pub fn linears(&self) -> &[LinearLayer] {
        self.linears.get_or_init(|| blocks::linear_layers(&self.topology()))
    }

    /// For each of [`Transformer::linears`] the index of the first one whose weight holds the same values, transposed or
    /// not; its own index where no earlier one does.
    ///
    /// # Errors
    /// When a weight cannot be read.
    pub fn first_copies(&self) -> Result<&[usize], OnnxError> {
        once(&self.first_copies, || copies::first_copies(&self.model, self.linears())).map(Vec::as_slice)
    }

    /// The head. `None` where no output is called `logits` (or `start_logits` and `end_logits`) or none of them depends on the
    /// last hidden state.
    ///
    /// # Errors
    /// When the blocks cannot be found.
    pub fn head(&self) -> Result<Option<&Head>, OnnxError> {
        once(&self.head, || head::find(self)).map(Option::as_ref)
    }

    /// Number of rows of the table in which token ids are looked up. `None` where no such table is found.
    pub fn vocabulary(&self) -> Option<usize> {
        inputs::vocabulary(&self.topology())
    }

    /// The element type of a value: as declared, else as its producer implies. `None` where that cannot be determined.
    pub fn element_type(&self, value: &str) -> Option<DataType> {
        types::element_type(&self.model, &self.topology(), value)
    }

    /// Size of the last dimension of a value `[batch, sequence, width]`: as declared, else from the norms and linear layers
    /// around it.
    pub fn width(&self, value: &str) -> Option<usize> {
        let topology = self.topology();
        types::width(&self.model, &topology, &LinearFinder::new(&topology), value)
    }
}

/// The cached result, else a new one, which is cached unless it is an error.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, OnnxError>) -> Result<&T, OnnxError> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}
