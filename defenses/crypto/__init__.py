"""Cryptographic baselines: what protects a prompt by shares or ciphertexts, and what that costs on real engines."""
