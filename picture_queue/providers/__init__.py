"""Providers of pictures: the interface that generations use, and its implementations.

`base` has the interface, `errors` the errors. `registry` chooses the implementations of a worker.
"""
