//! Exact nearest neighbours of every point.
