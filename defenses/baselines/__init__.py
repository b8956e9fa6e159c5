"""One file a defence; a file dropped here that ends with DEFENSE = TheClass is listed, tested and runnable."""
