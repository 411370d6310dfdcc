//! Base and adapter become a checkpoint folder and an ONNX file.
