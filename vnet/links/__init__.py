"""Links between ports: rate, delay, loss, queue."""
