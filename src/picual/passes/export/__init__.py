"""Passes that write for a runtime."""
