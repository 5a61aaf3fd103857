"""Ratios against peers, one script a claim."""
