"""Measurements that the docs quote; each says how to repeat it."""
