"""Gradient-boosted trees (XGBoost) on tables of rows: one row for each customer and period."""
