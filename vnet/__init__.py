"""A virtual network fabric in user space: switches, guests and services, live or in virtual time."""
