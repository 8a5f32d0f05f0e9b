"""Ways from the fabric to the operating system."""
