"""The proof: what `vdxgk run` does in a guest, what it checks, and the report."""
