"""A network on other runtimes: writers of C, ONNX and NIR, what runs them, and how they compare with PyTorch."""
