"""Measurements of the method: data sets, a simulated user, baselines, and a second, plain implementation."""
