"""Text to a recipe, all mistakes at once."""
