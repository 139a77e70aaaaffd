"""The reference evaluator of saved ML Programs: what an `.mlpackage` computes, where there is no
Core ML.

It reads the package as it lies on disk and computes it operator by operator, so what is verified
is what is shipped. It is a reading of the documented operators, not Apple's runtime: an operator,
or a value of an attribute, that it does not know makes a model unproven, never a guess.
"""
