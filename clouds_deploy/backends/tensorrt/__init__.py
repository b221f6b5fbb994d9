"""The TensorRT family: building engines, checking the machine, running them."""
