"""What a bid would bring: asked in groups, remembered within the hour, swapped with the live version."""
