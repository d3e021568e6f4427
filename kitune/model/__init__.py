"""The network: where it comes from, its head, and its losses."""
