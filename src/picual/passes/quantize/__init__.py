"""Passes that round a checkpoint's weights to small integers."""
