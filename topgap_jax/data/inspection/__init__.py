"""What a data set holds, and what speaks against training on it."""
