"""What a report is made of: runs read from disk, tables, figures, examples, and the page that holds them."""
