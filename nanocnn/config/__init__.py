"""Every key, and the way from YAML and `key=value` to a checked config."""
