"""ONNX graphs to Core ML ML Programs, by coremltools' builder of their language, MIL."""
