//! An export, resolved once: hidden states, blocks, linear layers, shared weights and head.
//!
//! Everything is found when it is first asked for and kept. An export whose hidden states cannot be found is an error only to
//! whoever asks for them: it can still be run.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::linear::LinearFinder;
use super::topology::Index;
use super::{
    Block, DataType, Head, HiddenStates, LinearLayer, Model, OnnxError, Topology, blocks, copies, head, inputs, types,
};

/// A model and what its graph is made of.
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
    /// When the file cannot be read or is no ONNX model.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OnnxError> {
        Ok(Self::new(Model::open(path)?))
    }

    /// Takes a model.
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

    /// Takes these as the hidden states, whatever the graph says.
    pub fn with_states(model: Model, states: HiddenStates) -> Self {
        Transformer { states: OnceLock::from(states), ..Self::new(model) }
    }

    /// The model alone.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// Who makes a value and who uses it.
    pub fn topology(&self) -> Topology<'_> {
        Topology::indexed(&self.model.graph, Arc::clone(&self.index))
    }

    /// The hidden states that the export shows; where it shows none, those of its residual stream.
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

    /// All linear layers, in file order, in blocks or not; their roles are not told apart.
    pub fn linears(&self) -> &[LinearLayer] {
        self.linears.get_or_init(|| blocks::linear_layers(&self.topology()))
    }

    /// For every one of the [`Transformer::linears`] the position of the first one whose weight holds the same values, turned
    /// or not; its own position where there is none before it.
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

    /// Rows of the table that token ids are looked up in. `None` where no such table is found.
    pub fn vocabulary(&self) -> Option<usize> {
        inputs::vocabulary(&self.topology())
    }

    /// The element type of a value: as declared, else by what makes it. `None` where that cannot be told.
    pub fn element_type(&self, value: &str) -> Option<DataType> {
        types::element_type(&self.model, &self.topology(), value)
    }

    /// The last dimension of a value `[batch, sequence, width]`: as declared, else by the norms and linear layers around it.
    pub fn width(&self, value: &str) -> Option<usize> {
        let topology = self.topology();
        types::width(&self.model, &topology, &LinearFinder::new(&topology), value)
    }
}

/// What was made before, else what is made now, which is kept unless it is an error.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, OnnxError>) -> Result<&T, OnnxError> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made))
}
