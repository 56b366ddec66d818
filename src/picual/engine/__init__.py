"""Plan x store x executor to verified results."""
