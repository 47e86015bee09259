"""One program a library: each runs in its own environment, where nothing else of carpool is installed."""
