"""Defences with one mistake each, under the claim of the sound ones, and the sound ones that the project lacks."""
