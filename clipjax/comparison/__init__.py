"""Evaluations of several models on the same examples, compared pair by pair."""
