"""The timeline, random streams, and the wiring of a lab, without I/O."""
