"""What stands between the network and the handlers: who may come in, how much and how fast, and what every answer says."""
