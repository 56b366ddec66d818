"""The dialect importer: an Olive run config, old or new, becomes a recipe."""

from picual.recipe.olive.config import import_config

__all__ = ["import_config"]
