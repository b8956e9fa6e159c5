"""What tries to read a protected prompt: one file an adversary, each with the knowledge that it assumes."""
