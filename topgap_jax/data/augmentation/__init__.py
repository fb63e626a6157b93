"""Augmentation per example: geometry, colour, policies."""
