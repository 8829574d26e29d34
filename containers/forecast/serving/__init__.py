"""Answers from stored forecasts, and what they were worth once newer readings came."""
