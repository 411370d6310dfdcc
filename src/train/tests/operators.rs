//! The operators that training supports, and those whose structure is known.

use crate::onnx::is_listed;
use crate::train::supported_operators;

#[test]
fn every_operator_that_is_computed_is_in_the_table_of_structure() {
    let missing = |full: &String| {
        let (domain, name) = full.rsplit_once('.').unwrap_or(("", full));
        !is_listed(domain, name)
    };
    let missing: Vec<String> = supported_operators().into_iter().filter(missing).collect();
    assert!(missing.is_empty(), "write them into src/onnx/operators.rs: {missing:?}");
}
