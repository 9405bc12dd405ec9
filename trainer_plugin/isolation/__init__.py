"""The proof that no document of a packed row sees another."""
