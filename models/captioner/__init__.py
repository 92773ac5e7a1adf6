"""Captions of images from their grid features: the network, its words, and how captions are decoded."""
