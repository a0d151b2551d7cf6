"""Events over Realtime: `subscriptions` keeps a socket alive, `follow` joins events and rows."""
