"""The paper's data sets: where they are published, how they are fetched, what they hold."""
