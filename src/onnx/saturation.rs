//! Products of 8-bit integers that may overflow where they are added in 16 bits.
//!
//! Processors without VNNI add pairs of products of unsigned by signed bytes with saturation (`vpmaddubsw`), and ONNX
//! Runtime uses that: with activations up to 255 a pair stays within 16 bits only where the weights are at most 64. Its
//! documentation advises quantizing with `reduce_range` there.

use super::tensor::DataType;
use super::{Model, Trait};

/// The largest weight with which no pair of products overflows.
const SAFE: u8 = 64;

/// Number of products with signed 8-bit weights that are large enough to overflow.
pub fn products_that_may_saturate(model: &Model) -> usize {
    let weights: std::collections::HashMap<&str, &super::Tensor> = model
        .graph
        .initializers
        .iter()
        .filter(|tensor| tensor.data_type == DataType::Int8)
        .map(|tensor| (tensor.name.as_str(), tensor))
        .collect();
    let is_wide = |name: &String| {
        let bytes = weights.get(name.as_str()).and_then(|tensor| model.bytes(tensor).ok());
        bytes.is_some_and(|bytes| bytes.iter().any(|byte| byte.cast_signed().unsigned_abs() > SAFE))
    };
    let products = model.graph.nodes.iter().filter(|node| node.has(Trait::Saturating));
    products.filter(|node| node.inputs.iter().any(is_wide)).count()
}

#[cfg(test)]
mod tests {
    use super::super::wire::Writer;
    use super::*;

    fn product(operator: &str, data_type: i64, largest: i8) -> Model {
        let mut model = Writer::new();
        model.message(7, |graph| {
            graph.message(1, |node| {
                node.string(1, "x").string(1, "w").string(2, "y").string(4, operator);
            });
            graph.message(5, |tensor| {
                let bytes = [0, 1, -1, largest].map(i8::cast_unsigned);
                tensor.int(1, 2).int(1, 2).int(2, data_type).string(8, "w").bytes(9, &bytes);
            });
        });
        Model::from_bytes("model.onnx", model.into_bytes()).unwrap()
    }

    #[test]
    fn signed_weights_beyond_seven_bits_may_saturate() {
        const INT8: i64 = 3;
        const UINT8: i64 = 2;
        for (operator, data_type, largest, expected) in [
            ("MatMulInteger", INT8, 127, 1),
            ("MatMulInteger", INT8, -128, 1),
            ("DynamicQuantizeMatMul", INT8, 65, 1),
            ("MatMulInteger", INT8, -64, 0),
            ("MatMulInteger", UINT8, 127, 0),
            ("DequantizeLinear", INT8, 127, 0),
        ] {
            let found = products_that_may_saturate(&product(operator, data_type, largest));
            assert_eq!(found, expected, "{operator} {data_type} {largest}");
        }
    }
}
