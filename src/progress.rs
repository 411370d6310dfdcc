//! Progress as data, and the way to stop. The library reports and never prints; the command line draws.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a long computation tells while it runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A stage begins. `total` counts in `unit` ("rows", "steps", "layers"); `done` is what an earlier run left finished.
    Begin {
        /// What is being done, for instance `extracting activations`.
        stage: &'a str,
        /// How much there is to do, where it is known.
        total: Option<u64>,
        /// How much an earlier run has left done.
        done: u64,
        /// What is counted.
        unit: &'a str,
    },
    /// So much of the current stage is done, in all.
    Advance {
        /// In the unit of the stage.
        done: u64,
        /// Something to show beside it, for instance `loss 0.412`; may be empty.
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

    /// Whether the user asked to stop. Long loops ask between two steps.
    fn is_cancelled(&self) -> bool {
        false
    }

    /// An error if the user asked to stop.
    fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

/// Stops when its observer does, and shows nothing: for stages within a stage.
pub struct Unseen<'a>(pub &'a dyn Observer);

impl Observer for Unseen<'_> {
    fn observe(&self, _: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Ignores all progress and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _: Event<'_>) {}
}

/// The user asked to stop. What was finished before is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped; run the same command again to go on from here")]
pub struct Cancelled;

/// A flag that one thread raises and others look at.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// Asks everything that looks at this flag to stop.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was raised.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
