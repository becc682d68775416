"""ONNX Runtime by its C API: the library, and models that it runs without the interpreter's lock.

Nothing here knows the protocol. The rest of the model server, Python's binding of ONNX Runtime among it, is above.
"""
