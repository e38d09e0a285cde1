"""Osler trains compact vision-language models to reason about medical images, and measures whether they looked."""

__version__ = "0.1.0"
