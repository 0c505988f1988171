"""Scorers that ask someone: reward models, a judge, an endpoint, the user's own function. One kind a file."""
