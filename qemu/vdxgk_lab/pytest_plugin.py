"""Pytest fixtures that boot guests."""
