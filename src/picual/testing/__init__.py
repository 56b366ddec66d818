"""What a plug-in author tests with: the contract kit and tiny models."""
