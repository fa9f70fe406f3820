"""A model in integers: every op as a described fixed-point device computes it, every tensor observable."""
