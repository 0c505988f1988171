"""Spend compute: run one test-time strategy against an engine and pick the answer."""
