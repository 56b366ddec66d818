"""An example plug-in for Picual: one pass."""
