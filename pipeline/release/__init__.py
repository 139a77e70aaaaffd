"""Releases: proven artifacts under one immutable version, published, signed, pulled."""
