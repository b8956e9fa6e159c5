"""What protects a prompt: the DEL pipeline, published baselines, and the contracts that every defence keeps."""
