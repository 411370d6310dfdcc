//! ONNX Runtime lives here alone: finding the library, sessions, execution providers and the proof of where nodes run.
