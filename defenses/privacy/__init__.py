"""Exact privacy profiles of single mechanisms (numpy and scipy alone)."""
