"""What the operator sees: metrics and logs. Never prompts, answers or keys."""
