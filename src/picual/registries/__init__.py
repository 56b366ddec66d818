"""Where finished models are registered: one file a kind of registry, loaded by its name."""
