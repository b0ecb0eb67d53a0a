"""The action model: a small network that decides within a closed set, and knows when it does not know."""
