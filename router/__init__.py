"""Decide how much compute a query deserves: features, predictions, the choice under budgets, and learning them."""
