//! Hugging Face folders: safetensors, configuration, tokenizer files; which checkpoint tensor an ONNX weight is.
