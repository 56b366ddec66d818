"""Transformations of models."""
