"""How each ONNX operator is said in MIL."""
