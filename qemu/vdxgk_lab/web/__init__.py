"""The web page: the live picture of an adapter, and beside it what it holds."""
