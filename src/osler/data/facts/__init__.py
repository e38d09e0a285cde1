"""What annotations and file headers say about an image, as facts that statements of a reasoning can be compared with."""
