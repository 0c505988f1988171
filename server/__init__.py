"""Serve: HTTP, engines, configuration, telemetry and the command line."""
