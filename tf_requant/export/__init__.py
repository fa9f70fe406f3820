"""A network as the fixed-point program of its target, and golden vectors: what a hardware or firmware team needs."""
