"""raydd."""
