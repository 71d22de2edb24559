"""The command line `wmtool`: parses, calls one function, prints. No logic of its own."""
