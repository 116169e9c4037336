"""Sky coordinates of pixels: cards, frames, distortions, composed maps."""
