"""How fast: benches that time the product against a plain baseline or a peer, in one run and in alternation."""
