"""Text to protect: files and hub data sets, and the private prompts that the package writes itself."""
