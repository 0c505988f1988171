"""Who may ask, and how much: API keys, their limits, and the middleware that holds both."""
