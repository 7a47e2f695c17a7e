"""What is not training: one callback a file."""
