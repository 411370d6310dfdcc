//! How a program is compiled: its passes, the library and the type of its matrix products.

/// How linear layers are computed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum LinearBackend {
    /// A short trial per layer shape at the start; on another device than the CPU always libtorch's own.
    #[default]
    Auto,
    /// libtorch's default matrix product.
    Torch,
    /// oneDNN (CPU only).
    OneDnn,
    /// As an earlier run chose (see [`Program::linear_choices`](super::Program::linear_choices)): a resumed run must use the same kernels to
    /// give the same bits. Shapes that are not listed use [`LinearBackend::Torch`].
    Chosen(Vec<LinearChoice>),
}

/// The type in which frozen linear layers are multiplied. Everything else, adapters included, keeps the type in the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The type in the export.
    #[default]
    Float32,
    /// Inputs and weights of frozen linear layers are rounded to bfloat16: faster where the processor has instructions for
    /// it, and half the memory for weights.
    Bfloat16,
}

/// Which backend computes the linear layers of one shape.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LinearChoice {
    /// Input width.
    pub in_features: usize,
    /// Output width.
    pub out_features: usize,
    /// `torch` or `onednn`.
    pub backend: String,
}

/// Settings of a program.
#[derive(Debug, Clone)]
pub struct ProgramOptions {
    /// How linear layers are computed.
    pub linear: LinearBackend,
    /// Whether patterns of nodes are replaced by one operation (GELU, layer norm, linear layers, attention).
    pub fuse: bool,
    /// Whether a head that reads one token gets only that token of the last block computed.
    pub narrow: bool,
    /// Whether token-wise operations run on real tokens only, not on padding. Applied where the export is
    /// found to respect its `attention_mask`.
    pub pack: bool,
    /// Whether the values of an output at padding are never read. Then [`ProgramOptions::pack`] also serves outputs that
    /// have a position for every token; they are zero at padding.
    pub padding_unused: bool,
    /// The type in which frozen linear layers are multiplied.
    pub precision: Precision,
    /// Number of sets of input shapes for which shape-dependent values are kept.
    pub shapes_kept: usize,
}

impl Default for ProgramOptions {
    fn default() -> Self {
        ProgramOptions {
            linear: LinearBackend::Auto,
            fuse: true,
            narrow: true,
            pack: true,
            padding_unused: false,
            precision: Precision::Float32,
            shapes_kept: 256,
        }
    }
}
