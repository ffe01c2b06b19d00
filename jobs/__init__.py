"""What is done: one verb per file, reading tables and writing tables."""
