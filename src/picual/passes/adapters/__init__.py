"""Passes over adapters."""
