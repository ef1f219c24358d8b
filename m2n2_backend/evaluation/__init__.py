"""Measuring the method: data sets, simulated user, baselines, and a second, plain implementation."""
