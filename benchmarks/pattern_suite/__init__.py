"""Small models, one for each pattern, and the tools that are run on them."""
