"""Mutants: artifacts that are wrong in a known way, built and judged as honest ones are."""
