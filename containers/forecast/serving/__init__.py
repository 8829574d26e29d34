"""Answers from stored forecasts, and their scores once newer readings exist."""
