//! All integration tests in one binary; one module per subject.

mod dimension;
