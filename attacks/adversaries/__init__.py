"""One file an adversary; a file dropped here that ends with ATTACK = TheClass is listed, tested and runnable."""
