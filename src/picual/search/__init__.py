"""Search: what is tried, in what order, and what is best. It knows candidates and numbers, nothing of models."""
