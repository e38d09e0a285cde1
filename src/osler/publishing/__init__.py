"""Publishing: a finished run becomes a folder for the hub, with weights, processor, model card and reporting checklist."""
