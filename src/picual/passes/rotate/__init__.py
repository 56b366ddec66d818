"""Passes that turn what flows through a network; weights go along, and nothing it computes changes."""
