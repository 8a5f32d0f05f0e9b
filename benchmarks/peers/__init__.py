"""The peers: each module starts one on a bed, and everything it started ends with the bed."""
