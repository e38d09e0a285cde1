"""Rules by which two texts count as equal. Each caller names the rule it wants."""
