"""What gradients can do for a model that works: TensorFlow is imported where one is asked for, and nowhere else."""
