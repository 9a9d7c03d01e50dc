"""Networks with BatchNorm, one a file, as a person would write them. `ARCHITECTURES` lists them by name."""
