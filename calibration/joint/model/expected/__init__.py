"""What is expected of maps before their own stars are asked."""
