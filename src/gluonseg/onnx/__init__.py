"""ONNX files: what is safe to load, and any network to ONNX by its operators."""
