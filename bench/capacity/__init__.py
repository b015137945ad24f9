"""How many machines, how much memory and which settings a number of clients needs: from measured figures."""
