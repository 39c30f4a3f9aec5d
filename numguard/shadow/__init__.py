"""Evaluate one operator call again by another route."""
