"""What a person looks at: reports made from run records alone."""
