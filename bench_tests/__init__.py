"""Measure: what a case costs."""
