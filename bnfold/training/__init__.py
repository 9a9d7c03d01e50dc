"""Training: data, loop, checkpoints. Importing this package imports no torch; its modules do."""
