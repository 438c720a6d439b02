"""A trained model as ONNX, in float32 and in int8."""
