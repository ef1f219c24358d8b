"""What Label Studio says and hears: requests, labeling configs, regions."""
