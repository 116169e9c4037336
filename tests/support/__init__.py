"""What tests share: scenes, rows, messages, servers to talk to, and how commands are run."""
