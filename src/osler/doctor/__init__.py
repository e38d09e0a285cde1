"""`osler doctor`: what can be known of a run before hours are spent on it."""
