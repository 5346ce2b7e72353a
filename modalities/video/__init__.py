"""Clips: appearance and motion of text-to-video models."""
