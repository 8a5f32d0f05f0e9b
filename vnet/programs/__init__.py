"""Services and traffic generators that run on guests: ordinary trio programs that know nothing of vnet.

On the host's own network they are as useful as on a guest's; ``run:`` in a topology file starts them by name.
"""
