//! The `gelora` command.

fn main() {}
