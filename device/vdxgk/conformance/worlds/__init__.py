"""Implementations of the callbacks that this project has: its backend, and its channel."""
