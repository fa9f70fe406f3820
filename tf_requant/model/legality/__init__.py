"""What an interpreter demands of a graph and of each op, one file a family of ops."""
