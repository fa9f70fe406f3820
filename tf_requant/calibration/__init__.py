"""What a model does on data: statistics that corrections use."""
