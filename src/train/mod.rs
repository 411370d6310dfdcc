//! The ONNX graph as a libtorch program, adapters, objectives, optimizer, the loop and its state. The only room that names `tch`.
