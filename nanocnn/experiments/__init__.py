"""What trains to find something out."""
