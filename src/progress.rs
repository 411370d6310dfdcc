//! Progress as data, and cancellation. The library reports and never prints; the command line draws.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a long computation reports while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A stage begins.
    Begin {
        /// What is done in this stage, for instance `extracting activations`.
        stage: &'a str,
        /// Amount of work in `unit`; `None` if not known.
        total: Option<u64>,
        /// Amount of work in `unit` that an earlier run has already done.
        done: u64,
        /// The unit of work: `rows`, `steps`, `layers`.
        unit: &'a str,
    },
    /// The total amount done so far in the current stage.
    Advance {
        /// Amount of work done, in the unit of the stage.
        done: u64,
        /// A detail to show beside it, for instance `loss 0.412`; may be empty.
        detail: &'a str,
    },
    /// The current stage is over.
    End,
    /// Something the user should know.
    Notice(&'a str),
    /// Something the user should look at.
    Warning(&'a str),
}

/// Receives progress and says whether to stop.
pub trait Observer: Send + Sync {
    /// Called often; must be cheap.
    fn observe(&self, event: Event<'_>);

    /// Whether the user asked to stop. Long loops check between steps.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// Returns an error if the user asked to stop.
    fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// An observer that passes on cancellation and shows no progress: for stages within a stage.
pub struct Unseen<'a>(pub &'a dyn Observer);

impl Observer for Unseen<'_> {
    fn observe(&self, _: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// An observer that ignores all progress and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _: Event<'_>) {}
}

/// The user asked to stop. What was finished before is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped; run the same command again to go on from here")]
pub struct Cancelled;

/// A flag that one thread raises and others check.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks everything that checks this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the flag was raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
