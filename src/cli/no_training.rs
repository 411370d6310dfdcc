//! Why this installation does not train.

/// Name of the program that is linked against libtorch.
pub(super) const PROGRAM: &str = "gelora-train";

/// Why training is not possible.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoTraining {
    /// The program is not there: a package, or a build, that only plans.
    #[error(
        "this installation plans, merges and evaluates, and does not train: {PROGRAM} is not beside {program}; take the package \
         with training (cpu or cuda), or build gelora with libtorch (cargo build --release)"
    )]
    NotThere { program: String },
    /// It is of another version.
    #[error("{program} is version {found} and this gelora is version {own}: install both from one package or build", own = env!("CARGO_PKG_VERSION"))]
    OtherVersion { program: String, found: String },
    /// It ended with an error line of its own.
    #[error("{line}")]
    Refuses { line: String },
    /// It is there and does not start.
    #[error(
        "{program} cannot be started: {reason}; libtorch belongs beside it in lib/, as in the package, or name its folder with \
         LD_LIBRARY_PATH"
    )]
    DoesNotStart { program: String, reason: String },
}
