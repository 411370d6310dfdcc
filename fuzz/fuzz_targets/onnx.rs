//! Any bytes as an ONNX model, and on what parses everything that `gelora inspect` and `extract` look for in a graph.

#![no_main]

use gelora::activations::{Pooling, pooled_model};
use gelora::onnx::{Model, Transformer, active_dropout, disable_training_mode, expose};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // External data is looked up in a folder that does not exist.
    let model = match Model::from_bytes("/nowhere/fuzz.onnx", bytes.to_vec()) {
        Ok(model) => model,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1),
    };
    for tensor in &model.graph.initializers {
        let _ = (model.to_f32(tensor), model.to_i64(tensor));
    }
    let model = Transformer::new(model);
    let topology = model.topology();
    for output in &model.graph.outputs {
        let _ = topology.ancestors(&[&output.name], &Default::default());
    }
    for input in &model.graph.inputs {
        let _ = topology.descendants(&[&input.name], &Default::default());
    }
    let _ = (model.linears(), model.first_copies());
    active_dropout(&model);
    if let Ok(edit) = disable_training_mode(&model) {
        let _ = edit.apply_to_bytes(&model);
    }
    let Ok(states) = model.states() else { return };
    let _ = (model.blocks(), model.head());
    if let Ok(edit) = expose(&model, states)
        && let Ok(bytes) = edit.apply_to_bytes(&model)
    {
        // What an edit writes is a model again.
        Model::from_bytes("/nowhere/fuzz.onnx", bytes).expect("an edited model parses");
    }
    // Made for one session: what is wrong with it ONNX Runtime says.
    for pooling in [Pooling::Mean, Pooling::Tokens { per_row: 1, seed: 0 }] {
        let _ = pooled_model(&model, &pooling).map(|bytes| Model::from_bytes("/nowhere/fuzz.onnx", bytes));
    }
});
