"""The gate: a check for every promise a pass makes."""
