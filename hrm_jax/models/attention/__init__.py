"""Attention, one file for each platform."""
