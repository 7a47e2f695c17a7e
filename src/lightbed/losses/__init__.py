"""Losses that torch lacks, and weights of classes from how often they occur."""
