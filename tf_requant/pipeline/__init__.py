"""The public verbs: the only place that wires the layers together."""
