//! The operators that the program knows, one small function each.
