"""Recording pools: ask an engine every question many times, and judge what comes back."""
