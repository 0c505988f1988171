"""The outcome store: what became of each request, kept to learn from where `store.url` is set."""
