"""Figures and pages that analysis and tuning share."""
