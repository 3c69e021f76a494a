"""SOHO."""
