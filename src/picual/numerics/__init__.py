"""Functions of arrays: shapes, formulas, papers."""
