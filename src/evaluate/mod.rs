//! Metrics, and the evaluation of an export.
