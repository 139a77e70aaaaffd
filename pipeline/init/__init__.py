"""`crosscast init`: a config for a model, written by looking at it."""
