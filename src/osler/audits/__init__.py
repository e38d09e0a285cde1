"""What a dataset gives away: accuracies of blind baselines, rows, images and patients that test shares with train, faults of the rows."""
