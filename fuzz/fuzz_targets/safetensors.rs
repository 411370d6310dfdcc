//! Any bytes as a safetensors file, and the elements of every tensor of what parses.

#![no_main]

use std::path::Path;

use gelora::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let checkpoint = match Checkpoint::from_bytes(Path::new("fuzz.safetensors"), bytes.to_vec()) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    };
    for tensor in checkpoint.tensors() {
        let elements = checkpoint.bytes(&tensor.name).expect("it is listed");
        assert_eq!(elements.len(), tensor.range.len());
        let _ = checkpoint.to_f32(&tensor.name);
    }
});
