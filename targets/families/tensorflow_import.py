"""Importing this imports TensorFlow and Keras as every step here wants them.

A module of its own, since a warm parent imports by name, and TensorFlow and Keras read these
variables while they are imported or first compute.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "tensorflow"  # a keras.json of the user's may name another
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # the reference is computed on the processor
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # without it, long sums are a hundred times less exact
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"  # its functions refuse once anything was computed
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else each run tells of absent GPUs

import keras
import tensorflow

__all__ = ["keras", "tensorflow"]
