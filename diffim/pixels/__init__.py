"""Compiled passes over whole images: convolution, resampling, planes."""
