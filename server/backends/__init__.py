"""Engines: inference servers with an OpenAI-compatible API. Their differences are data, in `profile`."""
