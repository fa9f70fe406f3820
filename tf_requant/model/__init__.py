"""A quantized graph, and nothing about how it is stored."""
