"""Deterministic simulation: whole pools on virtual time, in a world that a seed makes bad, held to what is promised."""
