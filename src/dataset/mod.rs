//! Tables, task presets, tokenization and batches.
