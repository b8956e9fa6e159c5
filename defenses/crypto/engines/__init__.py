"""Adapters of multi-party and homomorphic engines; each is one file, and all have the contract of `base`."""
