"""Data sets: files to rows, rows to text, texts to token sequences."""
