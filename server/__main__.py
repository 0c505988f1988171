"""`python -m server` is `apportion`."""

from server.cli import main

main(prog_name="python -m server")
