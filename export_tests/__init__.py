"""Gate: a fixed branch becomes an ONNX file, and the file is published only if it is the same function."""
