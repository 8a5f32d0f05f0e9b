"""Labs that run: the shells for both clocks, capture, control."""
