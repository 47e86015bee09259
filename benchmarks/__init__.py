"""Measure what carpool costs beside the straight line: the same bytes moved by the shortest program that can."""
