"""What a camera's frames are by an instrument file, before anything is processed."""
