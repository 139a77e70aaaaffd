"""The operators: one small function each, in tables by topic.

The modules import torch at their top: they are imported by what evaluates a program, when it does.

A function takes an operator's parameters by MIL's names: values as tensors (floats as float32,
integers as int32, whatever their declared size), what the program knows beforehand as Python
values. It gives a tensor, or a tuple of them. The caller rounds to the declared dtype.
Where opsets differ, the table has a function for each opset that changed the operator.
"""
