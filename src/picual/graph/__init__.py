"""Questions about and edits to ONNX graphs."""
