"""A language model as judge of the open answers that no rule decides, through any OpenAI-compatible endpoint.

Its rulings stand beside the verdicts of the rules and never replace one.
"""
