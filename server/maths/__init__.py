"""Algebra in a process of its own: whether two answers are equal in spite of their spelling."""
