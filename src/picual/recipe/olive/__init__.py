"""The dialect importer: an Olive run config, old or new, becomes a recipe."""
